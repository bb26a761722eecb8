//! Where a stream of a task goes: what stands in `stdout` and `stderr` of a request.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The paths and URIs of a process's streams, as clients give and get them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stdio {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// A place for output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere.
    Null,
    /// A FIFO, or another file that is there.
    Path(PathBuf),
    /// `file:///path`: a file that is made, with its directories, and appended to.
    File(PathBuf),
    /// `binary:///path?argument=value`: a program that logs.
    Binary { path: PathBuf, args: Vec<String> },
}

impl Target {
    /// Understands the field `field` of a request.
    pub(crate) fn parse(field: &str, uri: &str) -> Result<Self> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Ok(if uri.is_empty() { Self::Null } else { Self::Path(uri.into()) });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        let path = PathBuf::from(OsString::from_vec(bytes));
        if !path.is_absolute() {
            return Err(Error::invalid(field, format!("{uri:?} has no absolute path")));
        }
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" => {
                let pairs = form_urlencoded::parse(query.as_bytes());
                let args = pairs.flat_map(|(key, value)| [key.into_owned(), value.into_owned()]);
                Ok(Self::Binary { path, args: args.filter(|arg| !arg.is_empty()).collect() })
            }
            _ => Err(Error::invalid(
                field,
                format!("{uri:?} has the unknown scheme {scheme}: expected fifo, file or binary"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |uri| Target::parse("stdout", uri).unwrap();
        assert_eq!(parse(""), Target::Null);
        assert_eq!(parse("/run/f"), Target::Path("/run/f".into()));
        assert_eq!(parse("fifo:///run/f"), Target::Path("/run/f".into()));
        assert_eq!(parse("file:///var/log/a%20b"), Target::File("/var/log/a b".into()));
        assert_eq!(
            parse("binary:///bin/log?-x=a%20b&-v&-x="),
            Target::Binary {
                path: "/bin/log".into(),
                args: ["-x", "a b", "-v", "-x"].map(String::from).into()
            }
        );
    }

    #[test]
    fn mistakes_name_the_field() {
        for (uri, expected) in [
            ("http://x/y", "stdout: \"http://x/y\" has no absolute path"),
            ("http:///y", "stdout: \"http:///y\" has the unknown scheme http: expected fifo, file or binary"),
            ("file://y", "stdout: \"file://y\" has no absolute path"),
        ] {
            assert_eq!(Target::parse("stdout", uri).unwrap_err().to_string(), expected);
        }
    }
}
