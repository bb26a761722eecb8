//! The command line by which containerd starts a shim: Go's flags, then an action.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the shim is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a shim, or find the pod's, and print its address.
    Start,
    /// Clear up after a shim that is dead.
    Delete,
    /// Be the shim.
    Serve,
    /// Print the version.
    Version,
    /// Print a `RuntimeInfo` (containerd 2).
    Info,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    /// containerd's namespace.
    pub(crate) namespace: String,
    /// The task's id.
    pub(crate) id: String,
    /// containerd's gRPC address.
    pub(crate) address: String,
    /// A program whose `publish` command takes events.
    pub(crate) publish_binary: PathBuf,
    /// The bundle, if not the working directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Where the shim listens; it inherits the socket as its standard input.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) debug: bool,
}

impl Args {
    /// Reads the arguments after the program's name: `-flag value`, `-flag=value`, the same with two dashes.
    ///
    /// # Errors
    /// A sentence that names the argument.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: "containerd".into(),
            bundle: None,
            socket: None,
            debug: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let text = utf8(argument)?;
            let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
                args.action = match text.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(format!("unknown action {text:?}: expected start or delete")),
                };
                continue;
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => args.debug = given.is_none_or(|value| value != "false"),
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                _ => {
                    let mut next = || arguments.next().ok_or(format!("flag needs an argument: -{name}"));
                    let value = given.map_or_else(|| next().and_then(utf8), Ok);
                    args.set(name, value)?;
                }
            }
        }
        args.check()
    }

    fn set(&mut self, name: &str, value: Result<String, String>) -> Result<(), String> {
        match name {
            "namespace" => self.namespace = value?,
            "id" => self.id = value?,
            "address" => self.address = value?,
            "publish-binary" => self.publish_binary = value?.into(),
            "bundle" => self.bundle = Some(value?.into()),
            "socket" => self.socket = Some(value?.into()),
            _ => return Err(format!("flag provided but not defined: -{name}")),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, String> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        if self.namespace.is_empty() {
            return Err("shim namespace cannot be empty".into());
        }
        // It becomes the name of a directory.
        if self.namespace.contains('/') || self.namespace.starts_with('.') {
            return Err(format!("-namespace {:?}: expected a name without slashes", self.namespace));
        }
        if self.id.is_empty() {
            return Err("-id cannot be empty".into());
        }
        if self.action == Action::Serve && self.socket.is_none() {
            return Err("expected an action: start or delete".into());
        }
        Ok(self)
    }
}

fn utf8(argument: OsString) -> Result<String, String> {
    argument.into_string().map_err(|a| format!("argument {a:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    #[test]
    fn as_containerd_calls() {
        let args = parse(
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a -debug start",
        )
        .unwrap();
        assert_eq!((args.namespace.as_str(), args.id.as_str(), args.action), ("k8s.io", "a", Action::Start));
        assert_eq!(args.publish_binary, PathBuf::from("/usr/bin/containerd"));
        assert!(args.debug);
        let args = parse("--namespace=x -id=a -bundle /b -debug=false delete").unwrap();
        assert_eq!((args.bundle, args.action, args.debug), (Some("/b".into()), Action::Delete, false));
        assert_eq!(parse("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("-id a start", "shim namespace cannot be empty"),
            ("-namespace ../x -id a start", "-namespace \"../x\": expected a name without slashes"),
            ("-namespace x start", "-id cannot be empty"),
            ("-namespace x -id a stop", "unknown action \"stop\": expected start or delete"),
            ("-namespace x -id a", "expected an action: start or delete"),
            ("-namespace", "flag needs an argument: -namespace"),
            ("-nope x", "flag provided but not defined: -nope"),
        ] {
            assert_eq!(parse(line).unwrap_err(), expected);
        }
    }
}
