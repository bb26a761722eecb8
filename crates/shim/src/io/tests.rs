use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

const OWNER: Owner<'_> = Owner { id: "c", namespace: "ns", uid: 0, gid: 0 };

fn fifo(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    path.display().to_string()
}

/// The streams of a process without a terminal.
fn files(streams: &OpenStreams) -> [std::fs::File; 3] {
    let hiber::Stdio::Files(files) = streams.stdio() else { panic!("a terminal") };
    files.map(|fd| std::fs::File::from(fd.try_clone_to_owned().unwrap()))
}

/// As after the start: only the process has its ends.
fn started(streams: OpenStreams) -> Streams {
    let OpenStreams { streams, .. } = streams;
    streams
}

#[test]
fn what_a_client_has_not_read_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = fifo(dir.path(), "out");
    let stdio = Stdio { stdin: String::new(), stdout, stderr: String::new(), terminal: false };
    let streams = OpenStreams::open(&stdio, OWNER).unwrap();
    let [_, mut output, _] = files(&streams);
    let mut streams = started(streams);
    assert!(streams.is_read(), "nothing was written");
    output.write_all(b"out").unwrap();
    // wherever it is: in the pipe, with the thread, in the FIFO
    for _ in 0..1000 {
        assert!(!streams.is_read(), "nobody has read it");
    }
    let mut client = std::fs::File::open(&stdio.stdout).unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    assert!(streams.is_read());
    // a client that is given up is not waited for
    output.write_all(b"more").unwrap();
    streams.let_go();
    drop((client, output));
    streams.outputs.recv_timeout(DRAIN).unwrap_err();
    assert!(streams.is_read());
    streams.finish();
}

#[test]
fn fifos_are_copied_and_end_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(dir.path(), name));
    let stdio = Stdio { stdin, stdout, stderr, terminal: false };
    let streams = OpenStreams::open(&stdio, OWNER).unwrap();
    let [input, mut output, mut errors] = files(&streams);
    let mut streams = started(streams);
    output.write_all(b"out").unwrap();
    errors.write_all(b"err").unwrap();
    // a client that comes later finds what was written, and leaves without harm
    let mut reader = std::fs::File::open(&stdio.stdout).unwrap();
    let mut text = [0; 3];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"out");
    drop(reader);
    output.write_all(b"more").unwrap();
    let mut reader = std::fs::File::open(&stdio.stdout).unwrap();
    let mut errors_reader = std::fs::File::open(&stdio.stderr).unwrap();
    // input ends only when the client is gone and has said so
    std::fs::File::options().write(true).open(&stdio.stdin).unwrap().write_all(b"one").unwrap();
    let mut client = std::fs::File::options().write(true).open(&stdio.stdin).unwrap();
    client.write_all(b"two").unwrap();
    streams.close_stdin();
    drop(client);
    assert_eq!(std::io::read_to_string(&input).unwrap(), "onetwo");
    drop((output, errors));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    errors_reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "moreerr");
    streams.finish();
}

#[test]
fn output_that_nobody_reads_is_dropped_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let stdio = Stdio { stdout: fifo(dir.path(), "out"), ..Stdio::default() };
    let streams = OpenStreams::open(&stdio, OWNER).unwrap();
    let [_, mut output, _] = files(&streams);
    let streams = started(streams);
    // more than the FIFO takes, less than FIFO, buffer and pipe together
    output.write_all(&vec![b'x'; 70_000]).unwrap();
    drop(output);
    let began = std::time::Instant::now();
    streams.finish();
    let took = began.elapsed();
    assert!(took >= DRAIN && took < DRAIN * 4, "{took:?}");
}

#[test]
fn files_are_made_and_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a/b.log");
    let uri = format!("file://{}", log.display());
    let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
    for expected in ["one\ntwo\n", "one\ntwo\none\ntwo\n"] {
        let streams = OpenStreams::open(&stdio, OWNER).unwrap();
        let [mut input, mut output, mut errors] = files(&streams);
        let streams = started(streams);
        assert_eq!(input.read(&mut [0]).unwrap(), 0);
        output.write_all(b"one\n").unwrap();
        errors.write_all(b"two\n").unwrap();
        drop((output, errors));
        streams.finish();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), expected);
    }
}

#[test]
fn a_program_logs() {
    let dir = tempfile::tempdir().unwrap();
    let (script, log) = (dir.path().join("log.sh"), dir.path().join("log"));
    let text =
        "#!/bin/sh\nexec 5<&-\n{ echo $CONTAINER_ID $CONTAINER_NAMESPACE \"$@\"; cat <&3; cat <&4; } >$2\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?to={}", script.display(), log.display());
    let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
    let streams = OpenStreams::open(&stdio, OWNER).unwrap();
    let [_, mut output, mut errors] = files(&streams);
    let streams = started(streams);
    output.write_all(b"out\n").unwrap();
    errors.write_all(b"err\n").unwrap();
    drop((output, errors));
    streams.finish();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("c ns to {}\nout\nerr\n", log.display()));
}

#[test]
fn mistakes_name_the_stream() {
    let error = |stdio: &Stdio| OpenStreams::open(stdio, OWNER).unwrap_err().to_string();
    let stdio = Stdio { stdin: "/no/such".into(), ..Stdio::default() };
    assert_eq!(error(&stdio), "stdin: /no/such: No such file or directory (os error 2)");
    let stdio = Stdio { stderr: "/no/such".into(), ..Stdio::default() };
    assert_eq!(error(&stdio), "stderr: /no/such: No such file or directory (os error 2)");
    let stdio = Stdio { stdout: "binary:///no/such".into(), ..Stdio::default() };
    assert!(error(&stdio).contains("/no/such"));
}
