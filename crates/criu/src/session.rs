//! A conversation with CRIU.
//!
//! ```text
//!   hiber                                  criu swrk
//!     | -- VERSION, keep_open ----------------> |   at the start, always
//!     | <---------------- 4.1.1 --------------- |
//!     | -- FEATURE_CHECK, keep_open ----------> |   if asked for
//!     | <---------------- features ------------ |
//!     | -- DUMP, PRE_DUMP or RESTORE ---------> |   once, the last request
//!     | <---------------- NOTIFY step --------- |   any number of times:
//!     | -- NOTIFY success or failure ---------> |   CRIU waits for the answer
//!     | <---------------- success or failure -- |
//!     X                                         X
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use criu_proto::rpc::{CriuNotify, CriuOpts, CriuReq, CriuReqType, CriuResp};
use criu_proto::{Message as _, MessageField};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use crate::diagnose::{diagnose, diagnose_cut_off, diagnose_text, is_harmless};
use crate::error::{CriuError, Failure, HandlerError, Operation, Result};
use crate::locate::complaint;
use crate::notify::{Answer, DumpNotify, RestoreNotify, Undecoded};
use crate::options::{Common, DumpOptions, PreDumpOptions, RestoreOptions};
use crate::packet::{self, Packet};
use crate::patience::Patience;
use crate::swrk::{Ending, Swrk};
use crate::version::{Features, Version};

/// A connection to a criu process, which ends with it.
///
/// Dropping it closes the connection and waits for the process: one in the middle of a dump lets the
/// tasks go on first.
#[derive(Debug)]
pub struct Session {
    /// `None` once the conversation is over.
    socket: Option<OwnedFd>,
    /// `None` in a session on a socket of the caller's.
    swrk: Option<Swrk>,
    version: Option<Version>,
    /// How long the process may do nothing.
    patience: Option<Patience>,
}

/// The reaction of a session to a notification: external objects to report, or a refusal.
type OnNotify<'a> =
    dyn FnMut(&CriuNotify, Vec<OwnedFd>) -> std::result::Result<Vec<String>, HandlerError> + 'a;

impl Session {
    /// A session with a process that was started, which may do nothing for `limit`.
    pub(crate) fn with(socket: OwnedFd, swrk: Swrk, limit: Option<Duration>) -> Self {
        let patience = limit.map(|limit| Patience::new(limit, swrk.pid()));
        Self { socket: Some(socket), swrk: Some(swrk), version: None, patience }
    }

    /// A session on a connected SOCK_SEQPACKET socket whose other end is a `criu swrk`, or plays one.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self { socket: Some(socket), swrk: None, version: None, patience: None }
    }

    /// Extends CRIU's time limit while other processes work for it. During silence `work` is called about once a second, and
    /// returns a count of that work; while the count changes, CRIU may take its time.
    pub fn watch(&mut self, work: impl FnMut() -> u64 + Send + 'static) {
        if let Some(patience) = &mut self.patience {
            patience.watch(work);
        }
    }

    /// The socket of the conversation, as long as it is not over. While somebody else has it open, too, CRIU does not notice the end of
    /// this program.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The id of the criu process, which restored tasks are forked from; `None` for [`Self::from_socket`].
    pub fn pid(&self) -> Option<u32> {
        self.swrk.as_ref().map(Swrk::pid)
    }

    /// CRIU's version; asked once.
    ///
    /// # Errors
    /// [`CriuError::Died`] and its like.
    pub fn version(&mut self) -> Result<Version> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let response = self.question(Operation::Version, CriuReq::default())?;
        let version =
            response.version.as_ref().map(Version::from_proto).ok_or_else(|| CriuError::Protocol {
                operation: Operation::Version,
                problem: "the response has no version".into(),
            })?;
        self.version = Some(version);
        Ok(version)
    }

    /// The features of CRIU and the kernel. The first call makes CRIU probe the kernel.
    ///
    /// # Errors
    /// [`CriuError::CannotStart`] with CRIU's own words if it cannot cope with this kernel.
    pub fn features(&mut self) -> Result<Features> {
        let request =
            CriuReq { features: MessageField::some(Features::all_to_proto()), ..Default::default() };
        let response = self.question(Operation::FeatureCheck, request)?;
        response.features.as_ref().map(Features::from_proto).ok_or_else(|| CriuError::Protocol {
            operation: Operation::FeatureCheck,
            problem: "the response has no features".into(),
        })
    }

    /// Saves a process tree. `handler` is called at each [`DumpNotify`]. The tasks run on when this returns, or have ended.
    ///
    /// # Errors
    /// [`CriuError::Failed`] with CRIU's explanation; [`CriuError::Handler`] if the handler refused a
    /// step. The tasks run on in both cases.
    pub fn dump(
        mut self,
        options: &DumpOptions,
        mut handler: impl FnMut(DumpNotify<'_>) -> Answer,
    ) -> Result<Ending> {
        let mut on_notify = dump_steps(&mut handler);
        self.operate(Operation::Dump, options.to_proto()?, &options.common, &mut on_notify)?;
        Ok(Ending(self.swrk.take()))
    }

    /// Saves the memory of a process tree while it runs on. CRIU sends no steps.
    ///
    /// # Errors
    /// As [`Session::dump`].
    pub fn pre_dump(mut self, options: &PreDumpOptions) -> Result<()> {
        let mut on_notify = dump_steps(|_| Ok(()));
        self.operate(Operation::PreDump, options.to_proto()?, &options.common, &mut on_notify).map(drop)
    }

    /// Makes a process tree from images and tells the number of its first task, in CRIU's pid
    /// namespace. `handler` is called at each [`RestoreNotify`].
    ///
    /// # Errors
    /// As [`Session::dump`]; no task is left, unless the handler refused a step that CRIU only logs, such
    /// as `post-resume`: [`CriuError::Handler`] with `ended: None` means that the tasks run.
    pub fn restore(
        mut self,
        options: &RestoreOptions,
        mut handler: impl FnMut(RestoreNotify) -> Answer,
    ) -> Result<i32> {
        let operation = Operation::Restore;
        let mut on_notify = |notify: &CriuNotify, fds| {
            let step = notify.script.as_deref().unwrap_or_default();
            match RestoreNotify::decode(step, notify, fds) {
                Ok(step) => handler(step).map(|()| Vec::new()),
                Err(undecoded) => unheard(operation, step, &undecoded),
            }
        };
        let response = self.operate(operation, options.to_proto()?, &options.common, &mut on_notify)?;
        match response.restore.pid {
            Some(pid) if pid > 0 => Ok(pid),
            other => {
                let problem = format!("success, but the first task's pid is {}", other.unwrap_or(0));
                Err(CriuError::Protocol { operation, problem })
            }
        }
    }

    /// A request that leaves the connection open.
    fn question(&mut self, operation: Operation, request: CriuReq) -> Result<CriuResp> {
        let request = CriuReq { type_: Some(kind(operation).into()), keep_open: Some(true), ..request };
        let mut on_notify =
            |_: &CriuNotify, _| Err("a notification where there is nothing to notify of".into());
        self.converse(operation, &request, None, &mut on_notify)
    }

    /// The last request of a session. A process that has done it ends by itself.
    fn operate(
        &mut self,
        operation: Operation,
        opts: CriuOpts,
        common: &Common,
        on_notify: &mut OnNotify<'_>,
    ) -> Result<CriuResp> {
        let request = CriuReq {
            type_: Some(kind(operation).into()),
            opts: MessageField::some(opts),
            ..Default::default()
        };
        let response = self.converse(operation, &request, Some(common), on_notify)?;
        self.socket = None;
        Ok(response)
    }

    /// Sends a request, answers notifications, returns the successful response.
    fn converse(
        &mut self,
        operation: Operation,
        request: &CriuReq,
        common: Option<&Common>,
        on_notify: &mut OnNotify<'_>,
    ) -> Result<CriuResp> {
        let since = SystemTime::now();
        let mut refused: Option<(String, HandlerError)> = None;
        let ended = self.exchange(operation, request, on_notify, &mut refused);
        let ended = ended.and_then(|response| match response {
            Some(response) if response.success == Some(true) => Ok(response),
            response => Err(self.failure(operation, response, common.and_then(|c| recent_log(c, since)))),
        });
        let Some((step, source)) = refused else { return ended };
        Err(CriuError::Handler { operation, step, source, ended: ended.err().map(Box::new) })
    }

    /// The packets of [`Self::converse`]; `None` if the process is gone.
    fn exchange(
        &mut self,
        operation: Operation,
        request: &CriuReq,
        on_notify: &mut OnNotify<'_>,
        refused: &mut Option<(String, HandlerError)>,
    ) -> Result<Option<CriuResp>> {
        if !self.send(operation, request)? {
            return Ok(None);
        }
        while let Some(Packet { bytes, fds }) = self.receive(operation)? {
            let response = CriuResp::parse_from_bytes(&bytes).map_err(|e| CriuError::Protocol {
                operation,
                problem: format!("a packet of {} bytes is no response: {e}", bytes.len()),
            })?;
            let answered = response.type_.and_then(|t| t.enum_value().ok());
            match answered {
                Some(CriuReqType::NOTIFY) => {
                    if let (Some(patience), Some(pid)) = (&mut self.patience, response.notify.pid) {
                        patience.task(pid);
                    }
                    let answer = on_notify(&response.notify, fds);
                    let reply = notify_reply(&answer);
                    if let Err(e) = answer {
                        let step = response.notify.script.clone().unwrap_or_default();
                        refused.get_or_insert((step, e));
                    }
                    if !self.send(operation, &reply)? {
                        return Ok(None);
                    }
                }
                Some(t) if t == kind(operation) => return Ok(Some(response)),
                // "I do not understand"
                Some(CriuReqType::EMPTY) if response.success == Some(false) => return Ok(Some(response)),
                other => {
                    let other = other.map_or_else(|| format!("{:?}", response.type_), |t| format!("{t:?}"));
                    let problem = format!("a response of type {other} instead of {:?}", kind(operation));
                    return Err(CriuError::Protocol { operation, problem });
                }
            }
        }
        Ok(None)
    }

    /// Sends a message; false if the process is gone.
    fn send(&mut self, operation: Operation, message: &CriuReq) -> Result<bool> {
        let bytes = message.write_to_bytes().map_err(|e| CriuError::Protocol {
            operation,
            problem: format!("the request cannot be encoded: {e}"),
        })?;
        let Some(socket) = &self.socket else { return Ok(false) };
        match packet::send(socket, &bytes) {
            Ok(()) => Ok(true),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(false)
            }
            Err(e) => {
                Err(CriuError::io(format!("send criu a {operation} request of {} bytes", bytes.len()), e))
            }
        }
    }

    /// Waits for a packet; `None` if the process is gone. Restored tasks may still hold its end of the
    /// socket when it dies, so that the process is watched, too.
    fn receive(&mut self, operation: Operation) -> Result<Option<Packet>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        if let Some(swrk) = &self.swrk {
            let watched = [socket.as_fd(), swrk.pidfd().as_fd()];
            let mut ready = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let tick = self.patience.as_mut().map(Patience::begin);
            let mut silent = || {
                let waited = retry_on_intr(|| poll(&mut ready, tick.as_ref()));
                waited.map(|count| count == 0).map_err(|e| CriuError::io("wait for criu", e))
            };
            while silent()? {
                if self.patience.as_mut().is_some_and(Patience::is_over) {
                    swrk.kill();
                }
            }
            if ready[0].revents().is_empty() {
                return Ok(None);
            }
        }
        packet::receive(socket).map_err(|e| CriuError::io(format!("receive from criu {operation}"), e))
    }

    /// Collects what explains a refusal (`response`) or a death, and ends the session.
    fn failure(
        &mut self,
        operation: Operation,
        response: Option<CriuResp>,
        log: Option<PathBuf>,
    ) -> CriuError {
        let died = response.is_none();
        let status = self.abandon();
        let how = match self.patience.as_ref().and_then(Patience::verdict) {
            Some(verdict) if died => verdict,
            _ => status.map_or_else(|| "connection closed".to_owned(), |status| status.to_string()),
        };
        let output = self.swrk.as_mut().map(Swrk::printed).unwrap_or_default();
        if let (Operation::Version | Operation::FeatureCheck, Some(swrk)) = (operation, &self.swrk) {
            return cannot_start(&swrk.criu, operation, died.then_some(how), output);
        }
        let printed = diagnose_text(&output);
        let response = response.unwrap_or_default();
        let cr_errmsg = response.cr_errmsg.filter(|m| !m.trim().is_empty() && !is_harmless(m));
        let cr_errmsg = cr_errmsg.map(|m| m.trim_end().to_owned());
        let mut diagnosis = log.as_deref().and_then(|log| diagnose(log).ok()).unwrap_or_default();
        // Programs that CRIU runs print what is missing; its log then only says that they failed.
        if printed.cause.is_some() {
            (diagnosis.cause, diagnosis.told_by) = (printed.cause, printed.told_by);
        }
        diagnosis.lines.extend(printed.lines);
        if diagnosis.cause.is_none() {
            diagnosis.cause = cr_errmsg.as_deref().and_then(|m| diagnose_text(m).cause);
        }
        if diagnosis.cause.is_none()
            && let Some(cut_off) = log.as_deref().and_then(diagnose_cut_off)
        {
            (diagnosis.cause, diagnosis.told_by) = (cut_off.cause, cut_off.told_by);
        }
        let failure = Failure {
            operation,
            cr_errno: response.cr_errno,
            cr_errmsg,
            log,
            diagnosis,
            meaning: None,
            seen: None,
        };
        if died {
            CriuError::Died { how, failure: Box::new(failure) }
        } else {
            CriuError::Failed(Box::new(failure))
        }
    }

    /// Ends the conversation and reaps the process, of which nothing is left.
    fn abandon(&mut self) -> Option<std::process::ExitStatus> {
        self.socket = None;
        self.swrk.as_mut().and_then(Swrk::reap_all)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.socket.is_some() {
            self.abandon();
        } else {
            drop(Ending(self.swrk.take()));
        }
    }
}

/// The request that asks for an operation.
fn kind(operation: Operation) -> CriuReqType {
    match operation {
        Operation::Version => CriuReqType::VERSION,
        Operation::FeatureCheck => CriuReqType::FEATURE_CHECK,
        Operation::Dump => CriuReqType::DUMP,
        Operation::PreDump => CriuReqType::SINGLE_PRE_DUMP,
        Operation::Restore => CriuReqType::RESTORE,
    }
}

/// Decodes the steps of dumps for `handler`.
fn dump_steps(
    mut handler: impl FnMut(DumpNotify<'_>) -> Answer,
) -> impl FnMut(&CriuNotify, Vec<OwnedFd>) -> std::result::Result<Vec<String>, HandlerError> {
    move |notify, _fds| {
        let step = notify.script.as_deref().unwrap_or_default();
        let mut external = Vec::new();
        match DumpNotify::decode(step, &mut external) {
            Ok(step) => handler(step)?,
            Err(undecoded) => return unheard(Operation::Dump, step, &undecoded),
        }
        Ok(external)
    }
}

/// The answer to a step that the handler cannot be told of.
fn unheard(
    operation: Operation,
    step: &str,
    why: &Undecoded,
) -> std::result::Result<Vec<String>, HandlerError> {
    match why {
        Undecoded::Unknown => {
            tracing::debug!("criu {operation}: step {step:?} is unknown, going on");
            Ok(Vec::new())
        }
        Undecoded::Broken(problem) => Err((*problem).into()),
    }
}

fn notify_reply(answer: &std::result::Result<Vec<String>, HandlerError>) -> CriuReq {
    let opts = answer.as_ref().ok().filter(|external| !external.is_empty()).map(|external| CriuOpts {
        images_dir_fd: Some(-1),
        external: external.clone(),
        ..Default::default()
    });
    CriuReq {
        type_: Some(CriuReqType::NOTIFY.into()),
        notify_success: Some(answer.is_ok()),
        opts: opts.into(),
        ..Default::default()
    }
}

/// The log file, unless it is an earlier operation's: CRIU empties it, but not before it has accepted
/// the options.
fn recent_log(common: &Common, since: SystemTime) -> Option<PathBuf> {
    let path = common.log_path()?;
    // Times of files are those of the last clock tick.
    let since = since - Duration::from_millis(20);
    let written = Path::metadata(&path).and_then(|m| m.modified()).ok()?;
    (written >= since).then_some(path)
}

/// The error of a criu that does not get as far as an operation, with what it printed, and first what
/// that means.
fn cannot_start(criu: &Path, operation: Operation, died: Option<String>, mut output: String) -> CriuError {
    if died.is_none() {
        output.insert_str(0, &complaint(criu));
    }
    let diagnosis = diagnose_text(&output);
    let printed = if diagnosis.lines.is_empty() {
        // Not words of CRIU's but, for instance, of the dynamic linker.
        output.lines().take(3).map(|line| line.chars().take(400).collect()).collect()
    } else {
        let cause = diagnosis.cause.map(|c| format!("{}; {}", c.explanation, c.advice));
        cause.into_iter().chain(diagnosis.lines.into_iter().take(2)).collect()
    };
    let reason = died.unwrap_or_else(|| format!("its {operation} failed"));
    CriuError::CannotStart { criu: criu.into(), reason, printed }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
