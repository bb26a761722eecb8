use super::*;
use std::net::TcpListener;

fn request(command: u16, address: u64, pages: u64) -> Request {
    Word { command, pages, address: address * PAGE, id: 1, ..Word::default() }.bytes()
}

/// An answer with pages.
fn answer(address: u64, pages: u64) -> Vec<u8> {
    [&request(ADD_F, address, pages)[..], &vec![7; (pages * PAGE) as usize]].concat()
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The requests that reach a page server with four pages, at 1 to 4, when a destination sends `words`, waiting for each answer,
/// and hangs up; whether that was told as done. It answers a request with at most two pages.
fn heard(first: Option<Request>, words: &[Request]) -> (Vec<u8>, bool, Ended) {
    let ((ours, theirs), (mut peer, accepted)) = (UnixStream::pair().unwrap(), connection());
    let server = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut request = [0; REQUEST];
        while let Ok(count) = (&theirs).read(&mut request) {
            all.extend_from_slice(&request[..count]);
            let words = Word::of(&request);
            match words.command {
                _ if count < REQUEST => break,
                GET => (&theirs).write_all(&answer(words.address / PAGE, words.pages.min(2))).unwrap(),
                _ => {
                    (&theirs).write_all(&DONE).unwrap();
                    break;
                }
            }
        }
        all
    });
    let words = words.to_vec();
    let destination = std::thread::spawn(move || {
        for (request, sent) in
            first.iter().map(|first| (first, true)).chain(words.iter().map(|word| (word, false)))
        {
            if !sent {
                peer.write_all(request).unwrap();
            }
            let words = Word::of(request);
            if words.command == GET {
                let mut pages = vec![0; REQUEST + (words.pages.min(2) * PAGE) as usize];
                peer.read_exact(&mut pages).unwrap();
            }
        }
        peer.shutdown(Shutdown::Write).unwrap();
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let mut told = false;
    let ended = serve(&ours, &accepted, first, LazyMemory::with(1, 4), || {
        told = true;
        Ok(())
    });
    let bytes = server.join().unwrap();
    drop(ours);
    destination.join().unwrap();
    (bytes, told, ended.unwrap())
}

#[test]
fn a_page_server_hears_of_success_only_by_a_leave() {
    let all = [request(GET, 1, 4), request(GET, 3, 2), request(CLOSE, 0, 0)];
    let (bytes, told, ended) = heard(None, &all);
    assert_eq!((bytes.len(), told, ended), (96, true, Ended::Leave { missing: 0 }));
    assert_eq!((&bytes[..REQUEST], &bytes[64..66]), (&all[0][..], &FORCE_CLOSE.to_le_bytes()[..]));
    let (bytes, told, ended) = heard(None, &all[..2]);
    assert_eq!((bytes.len(), told, ended), (80, false, Ended::Broken));
    // Nobody may write pages there.
    let (bytes, told, _) = heard(None, &[request(3, 0, 0), request(CLOSE, 0, 0)]);
    assert_eq!((bytes.len(), told), (16, false));
    // Pages that were read before count.
    let (bytes, told, _) = heard(Some(request(GET, 1, 2)), &all[1..2]);
    assert_eq!((bytes.len(), told), (80, false));
    // A destination that gives nothing up may leave after it has seen a page of each task.
    let (bytes, told, ended) = heard(Some(request(GET, 1, 2)), &all[2..]);
    assert_eq!((bytes.len(), told, ended), (64, true, Ended::Leave { missing: 0 }));
    let (bytes, told, ended) = heard(Some(request(GET, 9, 2)), &all[2..]);
    assert_eq!((bytes.len(), told, ended), (48, false, Ended::Leave { missing: 4 }));
}

#[test]
fn a_leave_with_pages_missing_is_none() {
    let close = request(CLOSE, 0, 0);
    assert!(!heard(None, &[close]).1);
    assert_eq!(heard(None, &[close]).2, Ended::Leave { missing: 4 });
    // Two were asked for, twice, and the answer to four was two: one has not been seen at all.
    let words = [request(GET, 1, 2), request(GET, 1, 4), request(GET, 3, 1), close];
    let (bytes, told, ended) = heard(None, &words);
    assert_eq!((told, ended), (false, Ended::Leave { missing: 1 }));
    assert_eq!(bytes[96..], [0; 16]);
    // One that is given up is not missing, and CRIU knows nothing of that.
    let (bytes, told, ended) = heard(None, &[words[0], words[2], request(GIVE_UP, 4, 1), close]);
    assert_eq!((bytes.len(), told, ended), (96, true, Ended::Leave { missing: 0 }));
}

#[test]
fn answers_are_followed_however_they_are_cut() {
    for size in [1, 31, 33, 4096, 5000, 100_000] {
        let missing = Missing::new(LazyMemory::with(1, 4), true);
        let mut answers = Answers::new(missing.clone());
        let bytes = [answer(1, 1), answer(3, 2)].concat();
        for part in bytes[..bytes.len() - 1].chunks(size) {
            answers.hear(part);
        }
        assert_eq!(missing.lock().pages(), 3, "the last page is not whole");
        answers.hear(&bytes[bytes.len() - 1..]);
        assert_eq!(missing.lock().pages(), 1);
    }
}

#[test]
fn a_failed_done_is_a_failure() {
    let ((ours, mut theirs), (mut peer, accepted)) = (UnixStream::pair().unwrap(), connection());
    peer.write_all(&request(CLOSE, 0, 0)).unwrap();
    let server = std::thread::spawn(move || {
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        all
    });
    let fails = || Err(io::ErrorKind::Other.into());
    assert!(serve(&ours, &accepted, None, LazyMemory::default(), fails).is_err());
    assert_eq!(server.join().unwrap().len(), 16);
}

#[test]
fn a_destination_asks_before_it_is_answered_and_says_what_it_does_not_need() {
    for relay in [true, false] {
        let (mine, source) = connection();
        let server = std::thread::spawn(move || {
            let mut request = [0; REQUEST];
            for _ in 0..2 {
                (&source).read_exact(&mut request).unwrap();
            }
            (&source).write_all(&[answer(1, 1), answer(2, 2)].concat()).unwrap();
            let mut rest = Vec::new();
            while (&source).read_exact(&mut request).is_ok() {
                rest.push(request);
                if Word::of(&request).command == FORCE_CLOSE {
                    let _ = (&source).write_all(&DONE);
                }
            }
            rest
        });
        let fetcher = if relay { Fetcher::of_relay(mine) } else { Fetcher::of_page_server(mine) };
        fetcher.ask(1, PAGE, 1).unwrap();
        fetcher.ask(1, 2 * PAGE, 9).unwrap();
        let first = fetcher.answer().unwrap();
        assert_eq!((first.task, first.address, first.bytes), (1, PAGE, vec![7; PAGE as usize]));
        assert_eq!(fetcher.answer().unwrap().bytes.len() as u64, 2 * PAGE);
        assert!(fetcher.confirm([(1, 4 * PAGE, 7)]));
        let rest = server.join().unwrap();
        assert_eq!(rest.contains(&request(GIVE_UP, 4, 7)), relay, "CRIU does not know that word");
        assert_eq!(rest.len(), 1 + usize::from(relay));
    }
}

#[test]
fn a_destination_takes_no_more_than_a_pipe_at_once() {
    let answers = [
        request(GET, 1, 1).to_vec(),
        request(ADD_F, 1, MAX_ANSWER + 1).to_vec(),
        request(ADD_F, 1, u64::MAX).to_vec(),
        answer(1, 1)[..100].to_vec(),
        Vec::new(),
    ];
    for answer in answers {
        let (mine, mut source) = connection();
        source.write_all(&answer).unwrap();
        drop(source);
        assert!(Fetcher::of_relay(mine).answer().is_err());
    }
}
