//! `watch ROOT`: follows all containers below ROOT, and says of each how it ends. One thread serves all waits.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use hiber::{Condition, Runtime};

/// Wakes the thread that waits. Any executor of futures will do in its place.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    hiber::run_init_if_asked();
    let Some(root) = std::env::args().nth(1) else { return Err("usage: watch ROOT".into()) };
    let runtime = Runtime::new(root.as_ref());
    let mut waits = Vec::new();
    for id in runtime.ids()? {
        let task = runtime.open(&id)?.task()?;
        println!("{id}: {}, process {:?}", task.status()?, task.pid());
        waits.push((id, task.wait(Condition::NotRunning)?));
    }
    // A `Wait` is a future, too.
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        waits.retain_mut(|(id, wait)| match Future::poll(Pin::new(wait), &mut context) {
            Poll::Pending => true,
            Poll::Ready(status) => {
                println!("{id}: {:?}, code {}", status.ended, status.code());
                false
            }
        });
        if waits.is_empty() {
            return Ok(());
        }
        std::thread::park();
    }
}
