//! Threads that do one thing and end: what joins a namespace does not come back.

use crate::error::{Error, Result};

/// Does `work` on a thread of its own, whose `name` is for messages, and waits for its end.
///
/// # Errors
/// Those of `work`; there can be no more threads ([`Kind::Failed`](crate::Kind::Failed)); it panics
/// ([`Kind::Internal`](crate::Kind::Internal)).
pub(crate) fn apart<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::host(format!("start {name}"), e))?;
        thread.join().unwrap_or_else(|panic| Err(Error::panicked(name, &*panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::error::chain;

    #[test]
    fn what_a_thread_ends_with_is_told_and_so_is_a_panic() {
        assert_eq!(apart("it", || Ok(7)).unwrap(), 7);
        assert!(matches!(apart::<()>("it", || Err(Error::NotRunning)), Err(Error::NotRunning)));
        let panicked =
            apart::<()>("the restoring thread", || std::panic::panic_any("index 3 of 2")).unwrap_err();
        assert_eq!(panicked.kind(), Kind::Internal);
        assert_eq!(chain(&panicked), "the restoring thread: it panicked: index 3 of 2");
    }
}
