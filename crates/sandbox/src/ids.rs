//! User and group ids, as config.json gives them.

pub use hiber_sys::ids::{MAX, gid, uid};

use crate::{Error, Result};

/// The id that `field` gives.
///
/// # Errors
/// With the field's name: the number is no id.
pub fn check(field: impl Into<String>, id: u32) -> Result<u32> {
    if id <= MAX { Ok(id) } else { Err(Error::invalid(field, no_id(id))) }
}

/// Explains why a number is no id.
pub fn no_id(number: impl std::fmt::Display) -> String {
    format!("{number} is no id; expected a number from 0 to {MAX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_id_is_refused_by_its_field() {
        assert_eq!(check("f", MAX).unwrap(), MAX);
        let error = check("process.user.uid", u32::MAX).unwrap_err().to_string();
        assert_eq!(error, "process.user.uid: 4294967295 is no id; expected a number from 0 to 4294967294");
    }
}
