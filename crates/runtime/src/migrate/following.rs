//! Post-copy, at the destination: memory that comes from the source while the container runs here. The process that brings it asks for
//! pages; here that is said to the source, and what comes is passed on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender as Teller, channel};

use hiber_criu::page_protocol::Memory;
use hiber_criu::pagemap::PAGE;

use super::connection::{Connection, Frames};
use super::outgoing::Sender;
use super::word::{Frame, Want, Word, read_frame};
use crate::error::{Error, Result};
use crate::helpers::lazy::link::{Link, Wanted};

/// Has pages passed on from here to the end; the result is the other end of the link. From now on another thread reads what comes.
pub(super) fn follow(connection: &mut Connection) -> Result<OwnedFd> {
    let (link, theirs) = Link::pair().map_err(|e| Error::host("socketpair", e))?;
    let (tell, told) = channel();
    let from = connection
        .read_elsewhere(told)
        .ok_or_else(|| Error::internal("receive memory", "somebody does so already"))?;
    let (sender, asked) = (connection.sender(), link.clone());
    std::thread::spawn(move || ask(&asked, &sender));
    std::thread::spawn(move || pass_on(from, &link, &tell));
    Ok(theirs)
}

fn ask(link: &Link, sender: &Sender) {
    while let Some(Wanted { task, address, pages, waited }) = link.next() {
        let memory = Memory::Task(task).id();
        if !sender.say(&Word::Want(Want { memory, address, pages, waited })) {
            // The thread that reads hears why.
            return;
        }
    }
}

/// Until nothing comes any more, of which the process that brings memory is told, too.
fn pass_on(mut from: Frames, link: &Link, tell: &Teller<io::Result<Option<Frame>>>) {
    loop {
        let frame = read_frame(&mut from);
        let why = match &frame {
            Ok(Some(Frame::Word(Word::Working))) => continue,
            Ok(Some(Frame::Pages { memory, address, bytes })) => match pages_of(*memory, *address, bytes) {
                Some(task) => {
                    // It may have ended, which is told otherwise.
                    let _ = link.give(task, *address, bytes);
                    continue;
                }
                None => format!("the source sent {} bytes of memory that are no pages", bytes.len()),
            },
            Ok(Some(Frame::Word(Word::Lost(why)))) => format!("the source has lost it: {why}"),
            Ok(Some(_)) => {
                let _ = tell.send(frame);
                continue;
            }
            Ok(None) => "the connection to the source was closed".into(),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection to the source was closed".into()
            }
            Err(e) => format!("the connection to the source: {e}"),
        };
        link.fail(&why);
        let _ = tell.send(frame);
        return;
    }
}

/// The task whose pages these are, if they are pages of one.
fn pages_of(memory: u64, address: u64, bytes: &[u8]) -> Option<u64> {
    let length = bytes.len() as u64;
    let whole = length > 0 && length.is_multiple_of(PAGE) && address.is_multiple_of(PAGE);
    match Memory::of(memory)? {
        Memory::Task(task) => whole.then_some(task),
        Memory::Segment(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_of_a_task_are_passed_on() {
        let page = [0; PAGE as usize];
        assert_eq!(pages_of(Memory::Task(7).id(), PAGE, &page), Some(7));
        assert_eq!(pages_of(Memory::Segment(7).id(), PAGE, &page), None);
        assert_eq!(pages_of(7 << 8, PAGE, &page), None);
        assert_eq!(pages_of(Memory::Task(7).id(), PAGE + 1, &page), None);
        assert_eq!(pages_of(Memory::Task(7).id(), PAGE, &page[1..]), None);
        assert_eq!(pages_of(Memory::Task(7).id(), PAGE, &[]), None);
    }
}
