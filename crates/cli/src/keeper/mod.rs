//! A keeper: it waits, takes checkpoints, and brings a container back. Whatever takes memory or may fail is done by processes of its
//! own, which are this program with another command; so a keeper stays small for years.
//!
//! ```text
//! told ── children ── place ──┬── work
//!         streams ── signals ─┘
//! ```

mod children;
mod place;
mod signals;
mod streams;
mod told;
mod work;

pub(crate) use children::{Children, words};
pub(crate) use place::Place;
pub(crate) use told::Told;
pub(crate) use work::{Keeper, Rules, objections};
