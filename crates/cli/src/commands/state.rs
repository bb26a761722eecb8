//! `state`

use std::process::ExitCode;

use hiber::id::ContainerId;

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::output::out;
use crate::output::state::{ContainerState, describe};

pub(crate) const COMMAND: Command =
    Command::on_container("state", "show the state of a container, as JSON", |m| {
        Ok(Box::new(State { id: m.container()? }))
    });

#[derive(Debug)]
struct State {
    id: ContainerId,
}

impl Run for State {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let info = Containers::asking(cli, false)?.runtime.info(&self.id)?;
        out::write(&document(&describe(&info, String::new())?)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The document of `state`.
///
/// # Errors
/// If a path is not valid UTF-8.
fn document(container: &ContainerState) -> serde_json::Result<String> {
    serde_json::to_string_pretty(container).map(|json| json + "\n")
}

#[cfg(test)]
mod tests {
    use super::document;
    use crate::output::state::example;

    #[test]
    fn json_keeps_the_order_of_runc() {
        let state = document(&example("a", &[])).unwrap();
        assert!(state.starts_with("{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"a\",\n"), "{state}");
        assert!(!state.contains("annotations"), "{state}");
    }
}
