//! CRIU's protocol and image messages.
