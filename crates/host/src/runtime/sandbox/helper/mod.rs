//! The helper: this program started again, with one thread, to make one container and end.
//!
//! It takes an order on its input, works under the lease's lock, and answers on its output. Three processes take part:
//!
//! 1. the *helper* itself stays on the machine's side: control groups, id maps, loop device, record, answer;
//! 2. the *namer* is forked to enter the new namespaces, forks the third and ends;
//! 3. the *init* is the container's first process: it builds the file tree, drops what it may not keep, waits for the
//!    helper's word, and becomes the agent.
//!
//! The second and the third have one thread each; the helper has a second one for a moment, after it has forked.
//!
//! They talk over one socket pair. An init that loses the helper before the word ends, and everything that was mounted ends
//! with it, since it was mounted in namespaces of theirs alone.

mod disk;
mod gpus;
mod init;
mod sys;
mod tree;

use std::fs::{self, DirBuilder};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::super::disk::Making;
use super::ids::{self, IDS};
use super::process::{ProcessId, boot_id};
use super::protocol::{
    Answer, End, Failure, Image, InStep as _, MESSAGE_BYTES_MAX, Order, Profile, Remedy,
    RootProfile, Step,
};
use super::state::{self, Lock, Record};
use sys::Fork;

/// What the namer and the init tell the helper.
#[derive(Debug, Serialize, Deserialize)]
enum Event {
    /// The user namespace exists and waits for its id maps.
    Unmapped,
    /// The init was started under that number.
    Forked { pid: i32 },
    /// The init has done everything but become the agent.
    Ready,
    /// A step of theirs failed.
    Failed(Failure),
}

/// How often the end of a container that cannot be made is looked for, and how many times: five seconds in all.
const GIVE_UP_POLL: Duration = Duration::from_millis(5);
const GIVE_UP_POLLS_MAX: u32 = 1_000;
/// What the helper tells them; each is one byte.
const MAPPED: u8 = b'm';
const GO: u8 = b'g';

/// The helper's whole life. The command line's hidden subcommand ends here, before anything else of the program starts.
#[must_use]
pub fn sandbox_main() -> ExitCode {
    let answer = match read_order() {
        Ok(order) => work(&order).unwrap_or_else(Answer::Failed),
        Err(failure) => Answer::Failed(failure),
    };
    let failed = matches!(answer, Answer::Failed(_));
    // The node may be gone by now. The container is recorded all the same, and its next start finds it.
    let told = serde_json::to_vec(&answer).is_ok_and(|text| io::stdout().write_all(&text).is_ok());
    if failed || !told { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read_order() -> Step<Order> {
    let mut text = Vec::new();
    io::stdin().take(MESSAGE_BYTES_MAX).read_to_end(&mut text).step("read the order")?;
    serde_json::from_slice(&text).map_err(io::Error::from).step("parse the order")
}

fn work(order: &Order) -> Step<Answer> {
    let threads = fs::read_dir("/proc/self/task").step("count threads")?.count();
    if threads != 1 {
        return Err(Failure::because("start", "the helper must have one thread", None));
    }
    // A session of our own: the terminal's Ctrl-C is meant for the node, not for its containers. It fails only for
    // a process that leads a group already, which is just as far from the terminal.
    let session = rustix::process::setsid();
    debug_assert!(session.is_ok() || rustix::process::getpgrp() == rustix::process::getpid());
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let lock = Lock::wait(&order.dir).step("lock the lease's directory")?;
    let answer = under_lock(order);
    drop(lock);
    answer
}

fn under_lock(order: &Order) -> Step<Answer> {
    if let Some(record) = Record::read(&order.dir).step("read the container's record")? {
        if record.generation > order.generation {
            return Ok(Answer::Superseded { current: record.generation });
        }
        if let Some(init) = record.living().step("find the container's process")? {
            return Ok(Answer::Running { init_pid: init.pid });
        }
    }
    start(order)
}

fn start(order: &Order) -> Step<Answer> {
    let mnt = state::mount_dir(&order.dir);
    for name in ["", "disk", disk::SIZED_VOLUMES, "lower", "root", "run", "new"] {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(mnt.join(name));
        made.step("make the directories for mounting")?;
    }
    // The container's root cannot walk down to here; a working directory needs no walk.
    std::env::set_current_dir(&mnt).step("enter the directory for mounting")?;
    let making = disk::begin(order)?;
    if matches!(order.profile, Profile::Root(_)) {
        sys::unshare(UnshareFlags::NEWNS).step("make a mount namespace")?;
        private_mounts()?;
    }
    let (ours, theirs) = UnixStream::pair().step("make a socket pair")?;
    match sys::fork().step("fork")? {
        Fork::Child => {
            drop(ours);
            namer(order, theirs)
        }
        Fork::Parent(namer) => {
            drop(theirs);
            let led = lead(order, namer, &ours, making);
            if let (Err(_), Profile::Root(root)) = (&led, &order.profile) {
                // The lease may have been removed meanwhile: then nobody comes after us to look for what is left.
                drop(ours);
                give_up(root, namer).step("end what was begun")?;
            }
            led
        }
    }
}

/// Keeps mounts of the machine from reaching us and ours from reaching it.
fn private_mounts() -> Step<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step_or("make mounts private", Remedy::Userns)
}

// === the helper's side ===

fn lead(order: &Order, namer: Pid, wire: &UnixStream, mut making: Option<Making>) -> Step<Answer> {
    let mut events = BufReader::new(wire.take(MESSAGE_BYTES_MAX));
    let mut next = || next_event(&mut events);
    let Event::Unmapped = next()? else { return Err(out_of_turn()) };
    match &order.profile {
        Profile::User => {
            map_one_id(namer)?;
            make_volumes(order).step("make the volumes")?;
        }
        Profile::Root(root) => arrange(order, root, namer, making.as_mut())?,
    }
    tell(wire, MAPPED)?;
    // What needs the machine's disk is done while the init builds its tree.
    if let Some(making) = making {
        disk::keep(making)?;
    }
    let record = await_init(order, &mut next)?;
    rustix::process::waitpid(Some(namer), WaitOptions::empty()).step("wait for the namer")?;
    let running = Answer::Running { init_pid: record.init.pid };
    if order.end == End::Tried {
        return Ok(running);
    }
    let former = Record::read(&order.dir).step("read the container's record")?;
    Record::publish(&order.dir).step("record the container")?;
    tell(wire, GO)?;
    // The socket closes when the init becomes the agent; anything that is said before is why it could not.
    match next() {
        Err(failure) if failure.step == SILENT => Ok(running),
        said => {
            await_end(&record).step("end what was begun")?;
            // Only one that has never run is gone; one that has is down, and its disk is its tenant's.
            if former.is_none() {
                state::forget(&order.dir).step("forget the container")?;
            }
            Err(said.err().unwrap_or_else(out_of_turn))
        }
    }
}

/// Ends the first process of a container that cannot be made, so that nobody who reads its record finds it alive.
fn await_end(record: &Record) -> io::Result<()> {
    for _ in 0..GIVE_UP_POLLS_MAX {
        if record.living()?.is_none() {
            return Ok(());
        }
        record.init.signal(Signal::KILL)?;
        #[expect(clippy::disallowed_methods, reason = "the helper has nothing else to do")]
        std::thread::sleep(GIVE_UP_POLL);
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Ends the processes of a container that cannot be made, and removes its control groups. They end by themselves where they
/// wait for our word; the namer's number alone is not enough to signal it, since it may have been waited for already.
fn give_up(root: &RootProfile, namer: Pid) -> io::Result<()> {
    for _ in 0..GIVE_UP_POLLS_MAX {
        match rustix::process::waitpid(Some(namer), WaitOptions::NOHANG) {
            Ok(_) | Err(rustix::io::Errno::CHILD) => {}
            Err(error) => return Err(error.into()),
        }
        let pids = root.cgroups.pids()?;
        for pid in &pids {
            if let Some(process) = ProcessId::of(*pid)? {
                process.signal(Signal::KILL)?;
            }
        }
        if pids.is_empty() && root.cgroups.remove()? {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "the helper has nothing else to do")]
        std::thread::sleep(GIVE_UP_POLL);
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What root arranges before the namer goes on: ids and disk, and beside them the limits, for which the kernel takes its
/// time.
fn arrange(order: &Order, root: &RootProfile, namer: Pid, making: Option<&mut Making>) -> Step<()> {
    let pid = u32::try_from(namer.as_raw_nonzero().get()).unwrap_or(0);
    let limit = || root.cgroups.carry_out(pid).step_or("set the limits", Remedy::Cgroup);
    std::thread::scope(|scope| {
        let limits = std::thread::Builder::new().spawn_scoped(scope, limit);
        let id_base = ids::claim(&order.dir, order.lease).step("choose the container's ids")?;
        map_ids(namer, id_base)?;
        let userns = open_userns(namer)?;
        disk::prepare(order, root, making, &userns, id_base)?;
        match limits {
            Ok(limits) => limits.join().unwrap_or_else(|_| Err(out_of_turn())),
            // The machine has no thread left; it is the same without.
            Err(_) => limit(),
        }
    })
}

/// Waits for the init's number, which the namer tells, and for its own word; either may come first. The record is written
/// meanwhile; it counts once it is published.
fn await_init(order: &Order, next: &mut impl FnMut() -> Step<Event>) -> Step<Record> {
    let (mut number, mut staged, mut ready) = (None, None, false);
    while number.is_none() || !ready {
        match next()? {
            Event::Forked { pid } => {
                number = u32::try_from(pid).ok();
                staged = stage(order, number)?;
            }
            Event::Ready => ready = true,
            Event::Unmapped | Event::Failed(_) => return Err(out_of_turn()),
        }
    }
    let record = staged.map_or_else(|| stage(order, number), |staged| Ok(Some(staged)))?;
    record.ok_or_else(|| Failure::because("start", "the init ended too soon", None))
}

/// Writes the record of the process of that number, if it lives.
fn stage(order: &Order, number: Option<u32>) -> Step<Option<Record>> {
    let found = number.map(ProcessId::of).transpose().step("find the init")?.flatten();
    let Some(init) = found else { return Ok(None) };
    let record = Record {
        node_id: order.node_id.clone(),
        lease: order.lease,
        generation: order.generation,
        boot_id: boot_id().step("read the boot id")?,
        init,
    };
    if order.end == End::Started {
        record.stage(&order.dir).step("record the container")?;
    }
    Ok(Some(record))
}

/// The step that is blamed when the other side is gone without a word.
const SILENT: &str = "hear from the init";

fn next_event(events: &mut impl io::BufRead) -> Step<Event> {
    let mut line = String::new();
    events.read_line(&mut line).step("read an event")?;
    if line.is_empty() {
        return Err(Failure::because(SILENT, "it ended without a word", None));
    }
    match serde_json::from_str(&line).map_err(io::Error::from).step("parse an event")? {
        Event::Failed(failure) => Err(failure),
        event => Ok(event),
    }
}

fn out_of_turn() -> Failure {
    Failure::because("read an event", "out of turn", None)
}

fn tell(mut wire: &UnixStream, word: u8) -> Step<()> {
    wire.write_all(&[word]).step("tell the init to go on")
}

/// An ordinary user's volumes are directories beside the record.
fn make_volumes(order: &Order) -> io::Result<()> {
    for volume in &order.extras.volumes {
        let dir = order.dir.join("volumes").join(&volume.name);
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    Ok(())
}

/// The container's root is the user who runs the node, and there is nobody else in it.
fn map_one_id(namer: Pid) -> Step<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    write_map(namer, "setgroups", "deny")?;
    write_map(namer, "uid_map", &format!("0 {} 1", uid.as_raw()))?;
    write_map(namer, "gid_map", &format!("0 {} 1", gid.as_raw()))
}

fn map_ids(namer: Pid, base: u32) -> Step<()> {
    let map = format!("0 {base} {IDS}");
    write_map(namer, "uid_map", &map)?;
    write_map(namer, "gid_map", &map)
}

fn write_map(namer: Pid, file: &str, text: &str) -> Step<()> {
    let path = format!("/proc/{}/{file}", namer.as_raw_nonzero());
    fs::write(path, text).step_or("map the container's ids", Remedy::Userns)
}

fn open_userns(namer: Pid) -> Step<OwnedFd> {
    let path = format!("/proc/{}/ns/user", namer.as_raw_nonzero());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step("open the user namespace")
}

// === the namer's side ===

fn namer(order: &Order, wire: UnixStream) -> ! {
    if let Err(failure) = enter_namespaces(order, &wire) {
        report(&wire, &Event::Failed(failure));
        sys::exit_now(1);
    }
    match sys::fork().step("fork") {
        Ok(Fork::Child) => init::run(order, wire),
        Ok(Fork::Parent(pid)) => {
            report(&wire, &Event::Forked { pid: pid.as_raw_nonzero().get() });
            sys::exit_now(0);
        }
        Err(failure) => {
            report(&wire, &Event::Failed(failure));
            sys::exit_now(1);
        }
    }
}

fn enter_namespaces(order: &Order, wire: &UnixStream) -> Step<()> {
    sys::unshare(UnshareFlags::NEWUSER).step_or("make a user namespace", Remedy::Userns)?;
    report(wire, &Event::Unmapped);
    await_word(wire, MAPPED)?;
    let root = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    if matches!(order.profile, Profile::Root(_)) {
        rustix::thread::set_thread_groups(&[]).step("leave the groups of the node")?;
    }
    rustix::thread::set_thread_res_gid(root.1, root.1, root.1).step("become the group root")?;
    rustix::thread::set_thread_res_uid(root.0, root.0, root.0).step("become root")?;
    let rest = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP;
    sys::unshare(rest).step_or("make the namespaces", Remedy::Userns)?;
    private_mounts()
}

// === what both sides of the fork use ===

/// Says something to the helper. If it is gone, the next wait for its word ends us.
fn report(mut wire: &UnixStream, event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { sys::exit_now(1) };
    line.push(b'\n');
    if wire.write_all(&line).is_err() {
        sys::exit_now(1);
    }
}

fn await_word(mut wire: &UnixStream, word: u8) -> Step<()> {
    let mut heard = [0];
    match wire.read(&mut heard) {
        Ok(1) if heard[0] == word => Ok(()),
        Ok(_) => Err(Failure::because("wait for the helper", "it is gone", None)),
        Err(error) => Err(Failure::new("wait for the helper", &error, None)),
    }
}

/// Whether the container sees the machine's own programs.
const fn is_host(order: &Order) -> bool {
    matches!(order.image, Image::Host)
}
