//! Manual pages and shell completion, in the programs that read them.

use hiber_tests::command::run;
use hiber_tests::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;

const DIFFERENCES: &str = include_str!("../../docs/runc-differences.md");

fn hiber(args: &[&str]) -> Command {
    let mut command = Runtime::hiber().bare_command();
    command.args(args);
    command
}

fn program(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args);
    command
}

/// The commands, and with "" the program itself, each with the flags that its help shows: `--name`.
fn flags_by_help() -> Vec<(String, Vec<String>)> {
    let overview = run(hiber(&["--help"]), b"").ok().to_owned();
    let commands = overview.split("COMMANDS:\n").nth(1).unwrap().split("\n\n").next().unwrap().lines();
    let names = commands.map(|line| line.split_whitespace().next().unwrap().to_owned());
    let flags = |name: String| {
        let args = [name.as_str(), "--help"];
        let help = run(hiber(if name.is_empty() { &args[1..] } else { &args }), b"").ok().to_owned();
        let long = |line: &str| line.strip_prefix("   --").map(str::to_owned);
        let flags = help.lines().filter_map(long);
        let flags = flags.map(|line| format!("--{}", line.split([' ', ',', '.']).next().unwrap()));
        (name, flags.collect())
    };
    [String::new()].into_iter().chain(names.filter(|n| n != "help")).map(flags).collect()
}

#[test]
fn manual_pages_show_every_flag_and_are_read_without_warnings() {
    require!(Program("mandoc"), Program("groff"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut write = hiber(&["man", path]);
    write.env("SOURCE_DATE_EPOCH", "1700000000");
    run(write, b"").ok();
    let all = flags_by_help();
    assert_eq!(fs::read_dir(path).unwrap().count(), all.len());
    for (command, flags) in all {
        let name = format!("{path}/hiber-{command}.8").replace("-.8", ".8");
        assert_eq!(run(program("mandoc", &["-Tlint", "-Wwarning", &name]), b"").ok(), "", "{name}");
        let output = run(program("groff", &["-man", "-ww", "-Tascii", "-P-cbou", &name]), b"");
        assert_eq!(output.stderr, "", "{name}");
        let page = output.ok();
        let lines: Vec<_> = page.lines().map(str::trim).collect();
        assert!(flags.len() > usize::from(command.is_empty()), "{command}: {flags:?}");
        for flag in flags {
            let shown = |line: &&str| line.split([' ', ',']).next() == Some(&flag);
            assert!(lines.iter().any(|line| shown(&line.trim_end_matches("..."))), "{name}: {flag}\n{page}");
        }
        assert!(page.contains("2023-11-14"), "{page}");
    }
    let directory = dir.path().join("made/below");
    run(hiber(&["man", directory.to_str().unwrap()]), b"").ok();
    assert!(directory.join("hiber.8").is_file());
    run(hiber(&["man", "/dev/null/below"]), b"").fails("/dev/null/below");
}

/// The words that bash offers for the last of `words`.
fn bash(script: &Path, words: &[&str]) -> Vec<String> {
    const ASK: &str =
        r#". "$0"; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _hiber; printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = program("bash", &["--norc", "-uc", ASK]);
    command.arg(script).args(words);
    let output = run(command, b"");
    assert_eq!(output.stderr, "");
    output.ok().lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_values_and_containers() {
    require!(Root, Program("bash"));
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("hiber.bash");
    fs::write(&script, run(hiber(&["completion", "bash"]), b"").ok()).unwrap();
    for (command, flags) in flags_by_help() {
        let words: Vec<_> = ["hiber", &command, "--"].into_iter().filter(|w| !w.is_empty()).collect();
        assert_eq!(bash(&script, &words), flags, "{command}");
    }
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "60"]));
    c.run_detached().ok();
    let binary = hiber(&[]).get_program().to_str().unwrap().to_owned();
    let root = c.runtime().root().to_str().unwrap().to_owned();
    let below = format!("{}/", dir.path().display());
    let cases: &[(&[&str], &[&str])] = &[
        (&["hiber", "ch"], &["checkpoint", "checkpoints"]),
        (&["hiber", "--debug", "help", "re"], &["receive", "restore", "resume"]),
        (&["hiber", "--log-format", "j"], &["json"]),
        (&["hiber", "--log-format", "=", "j"], &["json"]),
        (&["hiber", "--log-format", "="], &["text", "json"]),
        (&["hiber", "list", "-f", "t"], &["table"]),
        (&["hiber", "completion", ""], &["bash", "zsh", "fish"]),
        (&["hiber", "checkpoints", "i"], &["inspect", "import"]),
        (&["hiber", "update", "--pids-limit", "--"], &[]),
        (&["hiber", "exec", "box", "--"], &[]),
        (&["hiber", "create", "--pid-file", &below], &[script.to_str().unwrap()]),
        (&["hiber", "create", "--bundle", &below], &[]),
        (&[&binary, "--root", &root, "state", ""], &[c.id()]),
        (&[&binary, "--root", "=", &root, "checkpoints", "ls", ""], &[c.id()]),
        (&[&binary, "--root", &root, "create", ""], &[]),
    ];
    for (words, offered) in cases {
        assert_eq!(&bash(&script, words), offered, "{words:?}");
    }
}

#[test]
fn fish_completes_commands_flags_and_values() {
    require!(Root, Program("fish"));
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("hiber.fish");
    fs::write(&script, run(hiber(&["completion", "fish"]), b"").ok()).unwrap();
    std::os::unix::fs::symlink(hiber(&[]).get_program(), dir.path().join("hiber")).unwrap();
    let ask = |line: &str| {
        let ask = format!("source {}; complete -C '{line}'", script.display());
        let mut fish = program("fish", &["--no-config", "-c", &ask]);
        // it asks the program whose line it completes for containers
        fish.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display()));
        let output = run(fish, b"");
        assert_eq!(output.stderr, "", "{line}");
        output.ok().lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (command, mut flags) in flags_by_help() {
        flags.sort();
        let mut offered = ask(&format!("hiber {command} --").replace("  ", " "));
        offered.sort();
        assert_eq!(offered, flags, "{command}");
    }
    assert_eq!(ask("hiber ch"), ["checkpoint", "checkpoints"]);
    assert_eq!(ask("hiber --root /x --log-format "), ["json", "text"]);
    assert_eq!(ask("hiber --debug kill box KI"), ["KILL"]);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "60"]));
    c.run_detached().ok();
    let root = c.runtime().root().display();
    assert_eq!(ask(&format!("hiber --root {root} state ")), [c.id()]);
    assert_eq!(ask(&format!("hiber --root={root} kill ")), [c.id()]);
    assert_eq!(ask(&format!("hiber create --pid-file {}/hiber.", dir.path().display())).len(), 1);
}

#[test]
fn zsh_reads_its_completion_which_has_every_flag() {
    require!(Program("zsh"));
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("_hiber");
    let text = run(hiber(&["completion", "zsh"]), b"").ok().to_owned();
    fs::write(&script, &text).unwrap();
    run(program("zsh", &["-fn", script.to_str().unwrap()]), b"").ok();
    // what _arguments is given, by the command before it
    for (command, flags) in flags_by_help() {
        let begin = if command.is_empty() { "_arguments -C".to_owned() } else { format!("    {command})\n") };
        let part = text.split(&begin).nth(1).unwrap_or_default();
        let part = part.split(if command.is_empty() { "&& return" } else { ";;" }).next().unwrap();
        for flag in flags {
            assert!(
                part.contains(&format!("{flag}[")) || part.contains(&format!("{flag}=[")),
                "{command}: {flag}"
            );
        }
    }
    run(hiber(&["completion", "csh"]), b"").fails("bash or zsh or fish");
}

/// The lines under these words of a help text: `--name` of each flag, or the names of commands.
fn listed(help: &str, title: &str) -> Vec<String> {
    let part = help.split(&format!("{title}:\n")).nth(1).unwrap_or_default();
    let lines = part.lines().take_while(|line| line.starts_with(' ') || title == "OPTIONS");
    let word = |line: &str| line.split_whitespace().next().map(|w| w.trim_end_matches([',', '.']).to_owned());
    lines.filter_map(word).filter(|w| title == "COMMANDS" || w.starts_with("--")).collect()
}

#[test]
fn every_command_and_flag_of_runc_is_there() {
    require!(Runc);
    let help = |runtime: Runtime, args: &[&str]| {
        let mut command = runtime.bare_command();
        command.args(args);
        run(command, b"").ok().to_owned()
    };
    let (own, runcs) = (help(Runtime::hiber(), &["--help"]), help(Runtime::runc(), &["--help"]));
    let commands = listed(&runcs, "COMMANDS");
    assert!(commands.len() > 15, "{runcs}");
    let missing = |theirs: &str, ours: &str, title: &str| {
        let ours = listed(ours, title);
        listed(theirs, title).into_iter().filter(|name| !ours.contains(name)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&runcs, &own, "COMMANDS"), [""; 0]);
    let named =
        DIFFERENCES.split(" are commands of hiber's own.").next().unwrap().rsplit("\n- ").next().unwrap();
    let unnamed = |command: &String| !named.contains(&format!("`{command}`"));
    let unnamed: Vec<_> = missing(&own, &runcs, "COMMANDS").into_iter().filter(unnamed).collect();
    assert_eq!(unnamed, [""; 0], "docs/runc-differences.md names the commands that runc lacks");
    assert_eq!(missing(&runcs, &own, "GLOBAL OPTIONS"), [""; 0]);
    for command in commands.iter().filter(|c| *c != "help") {
        let args = [command, "--help"];
        let (own, runcs) = (help(Runtime::hiber(), &args), help(Runtime::runc(), &args));
        assert_eq!(missing(&runcs, &own, "OPTIONS"), [""; 0], "{command}");
    }
}

/// The text of all Rust files below `dir`.
fn rust_sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            rust_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// A row of docs/threat-model.md names its tests and files in backquotes: all of them must exist.
#[test]
fn the_threat_model_names_tests_and_files_that_exist() {
    require!(Repository);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document = fs::read_to_string(repository.join("docs/threat-model.md")).unwrap();
    let mut sources = String::new();
    rust_sources(&repository.join("tests"), &mut sources);
    rust_sources(&repository.join("crates"), &mut sources);
    let (mut tests, mut files) = (0, 0);
    for quoted in document.split('`').skip(1).step_by(2) {
        let name = quoted.rsplit("::").next().unwrap();
        let is_path = |base: &str| repository.join(base).join(quoted).exists();
        if quoted.contains("/src/") && quoted.ends_with(".rs") {
            assert!(["", "crates", "tests"].into_iter().any(is_path), "no such file: {quoted}");
            files += 1;
        } else if name.matches('_').count() > 2
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        {
            assert!(sources.contains(&format!("fn {name}(")), "no such test: {quoted}");
            tests += 1;
        }
    }
    assert!(tests > 40 && files > 10, "{tests} tests, {files} files");
}
