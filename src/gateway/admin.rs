//! HTTP for operators: `/health/live`, `/health/ready`, `/metrics`. All else is 404.

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

async fn metrics(State(facts): State<Arc<dyn Facts>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], facts.metrics()).into_response()
}
