//! The retirer thread: everything that is not on the way of an append.

use super::core::{Common, Core, Job};
use super::walfiles;
use std::{
    io,
    sync::{Arc, Weak},
};
use tokio::sync::mpsc;

pub(super) struct Retirer {
    common: Arc<Common>,
    core: Weak<Core>,
}

impl Retirer {
    pub(super) fn new(common: Arc<Common>, core: Weak<Core>) -> Self {
        Self { common, core }
    }

    /// Serves until all senders are gone.
    pub(super) async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            if self.common.failure().is_some() {
                continue;
            }
            if let Err(error) = self.serve(job).await {
                self.common.fail(&error);
            }
        }
    }

    async fn serve(&mut self, job: Job) -> io::Result<()> {
        match job {
            Job::Spare => self.spare().await,
            Job::Barrier(tx) => {
                let _ = tx.send(());
                Ok(())
            }
            Job::Retire(_) | Job::Installed(_) | Job::Purged(_) | Job::Forgotten(_) => Ok(()),
        }
    }

    async fn spare(&mut self) -> io::Result<()> {
        let _ = &self.core;
        if self.common.spares.count() > 0 {
            return Ok(());
        }
        let name = self.common.env.random_u64();
        walfiles::make_spare(&*self.common.disk, &self.common.spares, name, self.common.options.wal_file_bytes).await
    }
}
