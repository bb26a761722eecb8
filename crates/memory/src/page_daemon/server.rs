//! The server of pages that are not on this machine.

use std::fmt::Debug;
use std::io;

/// Pages of a task, by the address that they had at the dump.
#[derive(Debug)]
pub struct Answer {
    /// The task's number at the dump.
    pub task: i32,
    /// The first page's address.
    pub address: u64,
    /// The pages' contents.
    pub bytes: Vec<u8>,
}

/// A connection to a page server.
pub trait PageServer: Debug + Send + Sync {
    /// Whether it gives pages before others for which somebody waits, and in parts; it gives each page once, however often it is asked
    /// for. Any other server answers requests in their order, each once, and maybe not with all of its pages.
    fn prefers(&self) -> bool {
        false
    }

    /// Asks for pages of a task, for which somebody may have `waited`.
    ///
    /// # Errors
    /// The connection is broken.
    fn ask(&self, task: i32, address: u64, pages: u64, waited: bool) -> io::Result<()>;

    /// Waits for the next answer.
    ///
    /// # Errors
    /// The connection is broken, or what comes is no answer.
    fn answer(&self) -> io::Result<Answer>;

    /// Ends who waits for an answer.
    fn close(&self);
}
