//! The harness that the tests share.
