//! Where a container is to go.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where a container is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// `ssh://[USER@]HOST[:PORT]`: the system's ssh(1) runs the receiver there.
    Ssh {
        /// The user there; ssh's choice if absent.
        user: Option<String>,
        /// A name that ssh knows.
        host: String,
        /// The port; ssh's choice if absent.
        port: Option<u16>,
    },
    /// `tls://HOST:PORT`: a receiver that listens there.
    #[cfg(feature = "tls")]
    Tls {
        /// A name or an address, which the receiver's certificate has to have.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// `exec:COMMAND`: a command of the shell's whose standard streams lead to a receiver.
    Command(String),
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            let expected = "expected ssh://[USER@]HOST[:PORT], tls://HOST:PORT or exec:COMMAND";
            Err(Error::Invalid(format!("destination {text:?}: {why}; {expected}")))
        };
        if let Some(command) = text.strip_prefix("exec:") {
            return if command.trim().is_empty() {
                bad("has no command")
            } else {
                Ok(Self::Command(command.into()))
            };
        }
        let Some((kind, rest)) = text.split_once("://").filter(|(kind, _)| ["ssh", "tls"].contains(kind))
        else {
            return bad("is of no kind that is known");
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        // [ADDRESS] of IPv6 has colons of its own.
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, port.strip_prefix(':').or(Some(port))),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            Some(Err(_) | Ok(0)) => return bad("has a port that is no number from 1 to 65535"),
            Some(Ok(port)) => Some(port),
            None => None,
        };
        // ssh would take them for flags.
        if host.is_empty()
            || host.starts_with('-')
            || user.is_some_and(|user| user.is_empty() || user.starts_with('-'))
        {
            return bad("names no host");
        }
        let host = host.to_owned();
        match (kind, user, port) {
            ("ssh", user, port) => Ok(Self::Ssh { user: user.map(str::to_owned), host, port }),
            (_, Some(_), _) => bad("has a user, whom only ssh knows"),
            (_, _, None) => bad("has no port"),
            #[cfg(feature = "tls")]
            (_, None, Some(port)) => Ok(Self::Tls { host, port }),
            #[cfg(not(feature = "tls"))]
            _ => bad("cannot be reached: this program was built without TLS"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, user, host, port) = match self {
            Self::Command(command) => return write!(f, "exec:{command}"),
            Self::Ssh { user, host, port } => ("ssh", user.as_deref(), host, *port),
            #[cfg(feature = "tls")]
            Self::Tls { host, port } => ("tls", None, host, Some(*port)),
        };
        write!(f, "{kind}://")?;
        user.map_or(Ok(()), |user| write!(f, "{user}@"))?;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_what_they_say() {
        let ssh = |user: Option<&str>, host: &str, port| Destination::Ssh {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
        };
        for (text, expected) in [
            ("ssh://host", ssh(None, "host", None)),
            ("ssh://me@host:2222", ssh(Some("me"), "host", Some(2222))),
            ("ssh://[fe80::1%eth0]:22", ssh(None, "fe80::1%eth0", Some(22))),
            ("ssh://me@[::1]", ssh(Some("me"), "::1", None)),
            ("tls://host.example:7", Destination::Tls { host: "host.example".into(), port: 7 }),
            ("tls://[::1]:7", Destination::Tls { host: "::1".into(), port: 7 }),
            ("exec:nc host 1", Destination::Command("nc host 1".into())),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination, expected);
            assert_eq!(destination.to_string(), text);
        }
        for (text, why) in [
            ("host", "no kind that is known"),
            ("exec: ", "has no command"),
            ("ssh://", "names no host"),
            ("ssh://-oProxyCommand=x", "names no host"),
            ("ssh://-l@host", "names no host"),
            ("ssh://host:0", "a port"),
            ("ssh://host:x", "a port"),
            ("tls://host", "has no port"),
            ("tls://me@host:1", "has a user"),
            ("tcp://host:1", "no kind that is known"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("expected ssh://"), "{error}");
        }
    }
}
