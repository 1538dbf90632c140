//! Tasks of one worker: they stay on its thread and need not be `Send`.

use std::future::Future;

/// Runs the HTTP library's own tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
