//! HTTP for operators. What is not in this table is 404.
//!
//! | path | answer |
//! |---|---|
//! | `/health` | a line for each of the two below; 200 when both are well, else 503 |
//! | `/health/live` | 503 with the reason when the process cannot go on and must be restarted |
//! | `/health/ready` | 503 with the reason when it does not serve now |
//! | `/metrics` | OpenMetrics text, for Prometheus |

use super::ListenError;
use crate::{auth::admission, config::Listener, metrics::CONTENT_TYPE, runtime::Env};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

/// What the pages show; asked anew for each request.
pub trait Facts: Send + Sync + 'static {
    /// Whether the process can go on; the error says why not.
    fn live(&self) -> Result<(), String>;
    /// Whether it serves: the controller is known, the log takes writes. The error says what is missing.
    fn ready(&self) -> Result<(), String>;
    /// Metrics as [`CONTENT_TYPE`] says.
    fn metrics(&self) -> String;
}

/// An HTTP listener.
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// Listens until `until` resolves. Must be called within a tokio runtime.
    pub async fn listen(
        listener: &Listener,
        facts: Arc<dyn Facts>,
        env: &Env,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self, ListenError> {
        admission(listener)?;
        let refused = |error: std::io::Error| ListenError::Bind { bind: listener.bind, why: error.to_string() };
        let socket = TcpListener::bind(listener.bind).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        let serving = axum::serve(socket, routes(facts)).with_graceful_shutdown(until);
        env.spawn(async move {
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the HTTP listener ended");
            }
        });
        Ok(Self { address })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

fn routes(facts: Arc<dyn Facts>) -> Router {
    Router::new()
        .route("/health", get(|State(facts): State<Arc<dyn Facts>>| async move { overall(&*facts) }))
        .route("/health/live", get(|State(facts): State<Arc<dyn Facts>>| async move { health(facts.live()) }))
        .route("/health/ready", get(|State(facts): State<Arc<dyn Facts>>| async move { health(facts.ready()) }))
        .route("/metrics", get(metrics))
        .with_state(facts)
}

fn health(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

fn overall(facts: &dyn Facts) -> Response {
    let (live, ready) = (facts.live(), facts.ready());
    let status = if live.is_ok() && ready.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |state: Result<(), String>| state.err().unwrap_or_else(|| "ok".to_owned());
    (status, format!("live: {}\nready: {}\n", word(live), word(ready))).into_response()
}

async fn metrics(State(facts): State<Arc<dyn Facts>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], facts.metrics()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenerKind;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    struct Said {
        live: Result<(), String>,
        ready: Result<(), String>,
    }

    impl Facts for Said {
        fn live(&self) -> Result<(), String> {
            self.live.clone()
        }
        fn ready(&self) -> Result<(), String> {
            self.ready.clone()
        }
        fn metrics(&self) -> String {
            String::new()
        }
    }

    /// Status and body of a page.
    async fn page(facts: Said, path: &str) -> (String, String) {
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async {
            let _ = stopped.await;
        };
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener =
            Listener { kind: ListenerKind::Http, bind, advertised: None, anonymous: false, client_certificates: false };
        let admin = Admin::listen(&listener, Arc::new(facts), &Env::real(), until).await.unwrap();
        let mut stream = TcpStream::connect(admin.local_addr()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        drop(stop);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn health_tells_of_both_and_is_well_when_both_are() {
        let not = |why: &str| -> Result<(), String> { Err(why.to_owned()) };
        for (live, ready, status, body) in [
            (Ok(()), Ok(()), "200", "live: ok\nready: ok\n"),
            (Ok(()), not("no leader is known"), "503", "live: ok\nready: no leader is known\n"),
            (not("storage failed"), not("storage failed"), "503", "live: storage failed\nready: storage failed\n"),
            (not("storage failed"), Ok(()), "503", "live: storage failed\nready: ok\n"),
        ] {
            assert_eq!(page(Said { live, ready }, "/health").await, (status.to_owned(), body.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_node_that_cannot_go_on_says_why() {
        let facts = Said { live: Err("storage failed".to_owned()), ready: Ok(()) };
        assert_eq!(page(facts, "/health/live").await, ("503".to_owned(), "storage failed\n".to_owned()));
    }
}
