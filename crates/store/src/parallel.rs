//! Work on all processors.

/// More threads than this would wait for the one that reads.
const MAX_THREADS: usize = 8;

/// Has a part each done by as many threads as there are processors, and joins the results in their order.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    all: &[T],
    work: impl Fn(&[T]) -> std::result::Result<Vec<R>, E> + Sync,
) -> std::result::Result<Vec<R>, E> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let part = all.len().div_ceil(threads).max(16);
    if all.len() <= part {
        return work(all);
    }
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = all.chunks(part).map(|part| scope.spawn(|| work(part))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut joined = Vec::with_capacity(all.len());
    for part in parts {
        joined.extend(part?);
    }
    Ok(joined)
}
