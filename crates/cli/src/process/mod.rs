//! The processes that a command makes: staying with them, and telling others of them.

pub(crate) mod foreground;
pub(crate) mod listener;
pub(crate) mod notify;
pub(crate) mod tell;
