//! The command line by which containerd starts a shim: Go's flags, then an action.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

/// A flag with a value, as `-h` and the manual page show it.
struct Flag {
    name: &'static str,
    metavar: &'static str,
    help: &'static str,
    set: fn(&mut Args, String),
}

/// The flags that have a value.
const FLAGS: &[Flag] = &[
    Flag {
        name: "namespace",
        metavar: "NAME",
        help: "containerd's namespace",
        set: |args, value| args.namespace = value,
    },
    Flag { name: "id", metavar: "ID", help: "the task's id", set: |args, value| args.id = value },
    Flag {
        name: "address",
        metavar: "SOCKET",
        help: "containerd's gRPC socket",
        set: |args, value| args.address = value,
    },
    Flag {
        name: "publish-binary",
        metavar: "FILE",
        help: "the program whose command publish takes events (default: containerd)",
        set: |args, value| args.publish_binary = value.into(),
    },
    Flag {
        name: "bundle",
        metavar: "DIR",
        help: "the bundle's directory (default: the working directory)",
        set: |args, value| args.bundle = Some(value.into()),
    },
    Flag {
        name: "socket",
        metavar: "SOCKET",
        help: "be the shim that listens there, on the socket that is standard input",
        set: |args, value| args.socket = Some(value.into()),
    },
];

/// The flags without a value, and the actions.
const WORDS: &[(&str, &str)] = &[
    ("-debug", "log what happens in detail"),
    ("-info", "print what containerd 2 asks a runtime for, and leave"),
    ("-v, -version", "print the version, and leave"),
    ("-h, -help", "print this, and leave"),
    ("start", "start a shim, or find that of the pod, and print its address"),
    ("delete", "clear up after a shim that is dead"),
];

/// The text that `-h` prints.
pub(crate) fn help() -> String {
    let mut text = "containerd-shim-hiber-v2: containerd's task service on hiber; containerd starts it.\n\n\
                    usage: containerd-shim-hiber-v2 -namespace NAME -id ID [FLAG...] start|delete\n\n"
        .to_owned();
    let flags = FLAGS.iter().map(|flag| (format!("-{} {}", flag.name, flag.metavar), flag.help));
    let words = WORDS.iter().map(|(word, help)| ((*word).to_owned(), *help));
    for (word, help) in flags.chain(words) {
        let _ = writeln!(text, "  {word:<21}  {help}");
    }
    text
}

/// The action of the shim.
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
    /// Print which flags there are.
    Help,
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
                "h" | "help" => {
                    args.action = Action::Help;
                    break;
                }
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
        let flag = FLAGS.iter().find(|flag| flag.name == name);
        let flag = flag.ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        (flag.set)(self, value?);
        Ok(())
    }

    fn check(self) -> Result<Self, String> {
        if matches!(self.action, Action::Version | Action::Info | Action::Help) {
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
    fn help_and_the_manual_page_show_every_flag() {
        for line in ["-h", "--help", "-namespace x -h", "-help stop"] {
            assert_eq!(parse(line).unwrap().action, Action::Help, "{line}");
        }
        let page = include_str!("../containerd-shim-hiber-v2.8").replace("\\-", "-");
        let unwrapped = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (help, page) = (unwrapped(&help()), unwrapped(&page));
        let flags = FLAGS.iter().map(|flag| (format!("-{} {}", flag.name, flag.metavar), flag.help));
        for (word, what) in flags.chain(WORDS.iter().map(|(word, what)| ((*word).to_owned(), *what))) {
            assert!(help.contains(&format!("{word} {what}")), "{word}");
            assert!(page.contains(&format!(".B {word} {what}")), "{word}: {page}");
        }
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
