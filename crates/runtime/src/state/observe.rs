//! The status, which is observed and not recorded.

use crate::error::Result;
use crate::state::entry::{INIT_SOCKET, START_SOCKET};
use crate::status::Status;

/// The questions to the kernel that give a status. Handles and [`ContainerInfo`](crate::ContainerInfo) ask them in different ways.
pub(crate) trait Observe {
    /// Whether the first process is there and has not ended.
    fn is_alive(&self) -> Result<bool>;
    /// Whether the cgroup is frozen.
    fn is_frozen(&self) -> Result<bool>;
    /// Whether somebody listens on the socket of that name in the container's directory.
    fn listens(&self, socket: &str) -> Result<bool>;

    /// Whether nobody listens because the runtime was killed while it made the container. Its init is then about to end.
    fn is_abandoned(&self) -> Result<bool>;

    /// The status of a container that has had a first process. Asks only the necessary questions.
    fn observe(&self) -> Result<Status> {
        Ok(if !self.is_alive()? {
            Status::Stopped
        } else if self.is_frozen()? {
            Status::Paused
        } else if self.listens(INIT_SOCKET)? {
            // The socket is renamed when init is ready. In this order, one of the two questions finds it.
            Status::Creating
        } else if self.listens(START_SOCKET)? {
            Status::Created
        } else if self.is_abandoned()? {
            Status::Stopped
        } else {
            Status::Running
        })
    }
}
