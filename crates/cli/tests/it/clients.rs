//! Renters' own clients in a rented Debian system, on each runtime: one list of checks, held against both.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::renting::{On, Provider, Rental, judge, lease_id, new_key, run, text};
use crate::world::{program, skip, wait_for};

/// A check of one client.
type Check = fn(&Rental);

const CHECKS: [(&str, Check); 17] = [
    ("ssh runs commands and gives their exit codes", commands),
    ("ssh feeds and empties pipes", pipes),
    ("ssh gives a shell on a terminal", terminal),
    ("ssh runs a script on its input", script),
    ("ssh shares one connection", shared_connection),
    ("ssh refuses another host key", pinned_host_key),
    ("scp copies both ways", scp),
    ("sftp works through a list", sftp),
    ("rsync copies both ways", rsync),
    ("ssh reaches through", reach_through),
    ("ssh serves a proxy", proxy),
    ("ssh brings a service in", bring_in),
    ("git clones and pushes", git),
    ("Jupyter answers through a forwarded port", jupyter),
    ("Ansible pings and copies", ansible),
    ("paramiko enters with a key", paramiko),
    ("asyncssh enters with a key", asyncssh),
];

/// A renter's tools would not work on a provider with a Docker engine.
#[test]
fn clients_work_in_docker() {
    every_client(On::Docker);
}

/// A renter's tools would not work on a provider without an engine.
#[test]
fn clients_work_in_the_sandbox() {
    every_client(On::Sandbox);
}

fn every_client(on: On) {
    let Some(provider) = Provider::new(on) else { return };
    let (mut miner, node) = provider.start(&[]);
    let dir = provider.world.dir.path().join("renter");
    let id = lease_id();
    assert!(provider.ask(&node, id, &new_key(&dir)).is_some(), "{}", miner.log());
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        // Every client is tried, so that one report names all that fail.
        if std::panic::catch_unwind(|| check(&rental)).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "on {on:?}: {failed:#?}\n{}", miner.log());
    assert!(provider.release(&node, id).is_some());
    provider.ended(&node, id);
    miner.stop();
}

fn commands(rental: &Rental) {
    assert_eq!(rental.says("echo $((6*7)); id -u; . /etc/os-release; echo $ID"), "42\n0\ndebian\n");
    for code in [1, 7, 255] {
        let output = run(rental.ssh(&format!("echo out; echo err >&2; exit {code}")), b"");
        assert_eq!(output.status.code(), Some(code));
        assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
    }
    // What a shell would take apart arrives as it was.
    assert_eq!(rental.says("printf '%s' 'a  b\"$(c)`d`\\e'"), "a  b\"$(c)`d`\\e");
    let output = run(rental.ssh("kill -TERM $$"), b"");
    assert_eq!(output.status.code(), Some(255), "killed by a signal");
}

fn pipes(rental: &Rental) {
    let bytes = noise(3 << 20);
    let output = run(rental.ssh("cat"), &bytes);
    assert!(output.stdout == bytes, "{} of {} bytes", output.stdout.len(), bytes.len());
    let counted = run(rental.ssh("wc -c; echo end"), &bytes);
    assert_eq!(text(counted), format!("{}\nend\n", bytes.len()));
}

fn terminal(rental: &Rental) {
    let mut ssh = rental.client("ssh");
    ssh.args(["-tt", "lease"]).env("TERM", "xterm-256color");
    let typed =
        b"test -t 0 && echo is-$((1+1)) $TERM\nstty -echo\nprintf '\\001\\000begin\\n'\nexit 9\n";
    let output = run(ssh, typed);
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(seen.contains("is-2 xterm-256color"), "{seen}");
    assert!(seen.contains("\u{1}\0begin"), "{seen}");
    assert_eq!(output.status.code(), Some(9), "{seen}");
}

/// As VS Code's remote server is started: a script on the input of a plain shell.
fn script(rental: &Rental) {
    let mut ssh = rental.client("ssh");
    ssh.args(["-T", "lease", "bash"]);
    let script = "set -e\nuname -s\nmkdir -p ~/.server && cd ~/.server\npython3 - <<'X'\nprint('py')\nX\n\
                  nohup sleep 300 >/dev/null 2>&1 </dev/null &\necho $! > pid\ntest -s pid && echo started\n";
    assert_eq!(text(run(ssh, script.as_bytes())), "Linux\npy\nstarted\n");
}

fn shared_connection(rental: &Rental) {
    let control = rental.path("control");
    let mut master = rental.client("ssh");
    master.args(["-N", "-M", "-S", &control, "lease"]);
    let master = Running::start(master);
    wait_for("the shared connection", || Path::new(&control).exists().then_some(()));
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|number| {
                let control = &control;
                scope.spawn(move || {
                    let mut ssh = rental.client("ssh");
                    ssh.args(["-S", control, "lease", &format!("echo {number}")]);
                    assert_eq!(text(run(ssh, b"")), format!("{number}\n"));
                })
            })
            .collect();
        for thread in asked {
            thread.join().unwrap();
        }
    });
    let mut exit = rental.client("ssh");
    exit.args(["-S", &control, "-O", "exit", "lease"]);
    text(run(exit, b""));
    drop(master);
}

/// A machine in the middle has another host key.
fn pinned_host_key(rental: &Rental) {
    let hosts = fs::read_to_string(rental.path("known_hosts")).unwrap();
    let (place, _) = hosts.trim().split_once(' ').unwrap();
    let other = new_key(&rental.dir.join("middle"));
    let other = other.rsplit_once(' ').unwrap().0;
    fs::write(rental.path("other_hosts"), format!("{place} {other}\n")).unwrap();
    let mut ssh = rental.client("ssh");
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", rental.path("other_hosts")));
    ssh.args(["lease", "true"]);
    let output = run(ssh, b"");
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Host key verification failed"));
}

fn scp(rental: &Rental) {
    let bytes = noise(2 << 20);
    fs::write(rental.path("up"), &bytes).unwrap();
    // The old protocol has the far end's shell take the name apart.
    for (flags, far) in [("-p", "lease:/root/a file"), ("-O", "lease:/root/a\\ file")] {
        let mut up = rental.client("scp");
        up.args([flags, &rental.path("up"), far]);
        text(run(up, b""));
        let mut down = rental.client("scp");
        down.args([flags, far, &rental.path("down")]);
        text(run(down, b""));
        assert!(fs::read(rental.path("down")).unwrap() == bytes, "{flags:?}");
        rental.says("rm '/root/a file'");
    }
    let tree = rental.dir.join("tree/deep");
    fs::create_dir_all(&tree).unwrap();
    for number in 0..50 {
        fs::write(tree.join(format!("{number}")), noise(number)).unwrap();
    }
    let mut up = rental.client("scp");
    up.args(["-r", &rental.path("tree"), "lease:/root/"]);
    text(run(up, b""));
    assert_eq!(rental.says("ls /root/tree/deep | wc -l").trim(), "50");
}

fn sftp(rental: &Rental) {
    let bytes = noise(1 << 20);
    fs::write(rental.path("local"), &bytes).unwrap();
    let batch = format!(
        "mkdir /root/d\ncd /root/d\nput {} a\nrename a b\nchmod 640 b\nln -s b soft\nget b {}\nls -l\npwd\n",
        rental.path("local"),
        rental.path("back")
    );
    let mut sftp = rental.client("sftp");
    sftp.args(["-b", "-", "lease"]);
    let said = text(run(sftp, batch.as_bytes()));
    assert!(said.contains("Remote working directory: /root/d"), "{said}");
    assert!(fs::read(rental.path("back")).unwrap() == bytes);
    assert_eq!(rental.says("stat -c %a /root/d/b; readlink /root/d/soft"), "640\nb\n");
}

fn rsync(rental: &Rental) {
    let tree = rental.dir.join("sync");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/a"), noise(1 << 20)).unwrap();
    let sync = |from: &str, to: &str| {
        let mut rsync = program("rsync");
        let shell = format!("ssh -F {}", rental.path("config"));
        rsync.args(["-a", "--delete", "--stats", "-e", &shell, from, to]);
        text(run(rsync, b""))
    };
    let (local, back) = (format!("{}/", tree.display()), rental.path("synced/"));
    sync(&local, "lease:/root/sync/");
    fs::write(tree.join("sub/b"), b"new").unwrap();
    let again = sync(&local, "lease:/root/sync/");
    assert!(again.contains("Number of regular files transferred: 1"), "{again}");
    sync("lease:/root/sync/", &back);
    assert!(fs::read(rental.path("synced/sub/a")).unwrap() == noise(1 << 20));
    assert_eq!(fs::read(rental.path("synced/sub/b")).unwrap(), b"new");
}

/// A service that listens inside only, reached by `-W` as a proxy command does it.
fn reach_through(rental: &Rental) {
    let service = "python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",7001)); \
                   print(\"up\",flush=True); c=s.accept()[0]; c.sendall(b\"inside \"+c.recv(99))'";
    let mut inside = Running::start(rental.ssh(service));
    inside.wait_for_output("up");
    let mut ssh = rental.client("ssh");
    ssh.args(["-W", "127.0.0.1:7001", "lease"]);
    assert_eq!(text(run(ssh, b"knock")), "inside knock");
}

/// `-D`: a service inside, reached through the client's own proxy.
fn proxy(rental: &Rental) {
    let service =
        "cd /tmp && echo through > said && exec python3 -u -m http.server -b 127.0.0.1 7002";
    let mut inside = Running::start(rental.ssh(service));
    inside.wait_for_output("Serving");
    // Any free port will do; the client says when one is taken.
    let (client, port) = (20_000_u16..20_200)
        .find_map(|port| {
            let control = rental.path(&format!("proxy-{port}"));
            let mut ssh = rental.client("ssh");
            ssh.args(["-N", "-M", "-S", &control, "-o", "ExitOnForwardFailure=yes"]);
            ssh.args(["-D", &format!("127.0.0.1:{port}"), "lease"]);
            let mut client = Running::start(ssh);
            let is_up = wait_for("a proxy", || {
                let ended = client.child.try_wait().unwrap().map(|_| false);
                ended.or_else(|| Path::new(&control).exists().then_some(true))
            });
            is_up.then_some((client, port))
        })
        .unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // SOCKS 5: no login; connect to 127.0.0.1:7002.
    socket.write_all(&[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    let [high, low] = 7002_u16.to_be_bytes();
    socket.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).unwrap();
    let mut answer = [0; 10];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[1], 0, "connected");
    let page = get(&mut socket, "/said");
    assert!(page.ends_with("through\n"), "{page}");
    drop(client);
}

/// `-R`: a service of the renter's, reached from inside.
fn bring_in(rental: &Rental) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut asked = [0; 5];
        socket.read_exact(&mut asked).unwrap();
        socket.write_all(b"hello ").unwrap();
        socket.write_all(&asked).unwrap();
    });
    let mut ssh = rental.client("ssh");
    ssh.args(["-o", "ExitOnForwardFailure=yes", "-R", &format!("7003:127.0.0.1:{port}"), "lease"]);
    ssh.arg("printf there | nc -N 127.0.0.1 7003");
    assert_eq!(text(run(ssh, b"")), "hello there");
    serving.join().unwrap();
}

fn git(rental: &Rental) {
    rental.says(
        "git init -q --bare /root/repo.git && git -C /root/repo.git symbolic-ref HEAD refs/heads/main",
    );
    let local = rental.path("repo");
    let shell = format!("ssh -F {}", rental.path("config"));
    let git = |args: &[&str]| {
        let mut git = program("git");
        git.args(args).env("GIT_SSH_COMMAND", &shell).env("HOME", &rental.dir);
        text(run(git, b""))
    };
    git(&["init", "-q", "-b", "main", &local]);
    fs::write(rental.dir.join("repo/file"), noise(100_000)).unwrap();
    git(&["-C", &local, "add", "file"]);
    let name = ["-c", "user.name=r", "-c", "user.email=r@localhost"];
    git(&[&["-C", &local], &name[..], &["commit", "-qm", "m"]].concat());
    git(&["-C", &local, "push", "-q", "lease:/root/repo.git", "main"]);
    let copy = rental.path("copy");
    git(&["clone", "-q", "lease:/root/repo.git", &copy]);
    assert!(fs::read(rental.dir.join("copy/file")).unwrap() == noise(100_000));
}

fn jupyter(rental: &Rental) {
    let socket = rental.path("jupyter");
    let mut ssh = rental.client("ssh");
    ssh.args([
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
        &format!("{socket}:localhost:8888"),
        "lease",
    ]);
    ssh.arg(
        "exec jupyter-server --allow-root --no-browser --ip=127.0.0.1 --port=8888 \
         --ServerApp.port_retries=0 --IdentityProvider.token=secret 2>&1",
    );
    let server = Running::start(ssh);
    let ask = |path: &str| {
        let mut socket = UnixStream::connect(&socket).ok()?;
        Some(get(&mut socket, path)).filter(|answer| !answer.is_empty())
    };
    let status = wait_for("the server", || ask("/api/status?token=secret"));
    assert!(status.starts_with("HTTP/1.1 200") && status.contains("\"kernels\""), "{status}");
    let refused = ask("/api/contents?token=wrong").unwrap();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    drop(server);
}

fn ansible(rental: &Rental) {
    let Some(python) = judge("NICOMPUTE_TEST_SSH_CLIENTS") else {
        return skip("Ansible: NICOMPUTE_TEST_SSH_CLIENTS is not set");
    };
    fs::write(rental.path("inventory"), "lease\n").unwrap();
    fs::write(rental.path("sent"), b"by ansible").unwrap();
    let ansible = |args: &[&str]| {
        let mut ansible = program(python.parent().unwrap().join("ansible").to_str().unwrap());
        ansible.args(["all", "-i", &rental.path("inventory")]).args(args);
        ansible.args(["-e", "ansible_python_interpreter=/usr/bin/python3"]);
        ansible.args(["--ssh-common-args", &format!("-F {}", rental.path("config"))]);
        ansible.env("HOME", &rental.dir).env("ANSIBLE_HOME", rental.dir.join("ansible"));
        ansible.env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
        ansible.env("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=2s");
        ansible.current_dir(&rental.dir);
        text(run(ansible, b""))
    };
    let pinged = ansible(&["-m", "ping"]);
    assert!(pinged.contains("\"ping\": \"pong\""), "{pinged}");
    let file = rental.path("sent");
    ansible(&["-m", "copy", "-a", &format!("src={file} dest=/root/sent mode=0600")]);
    assert_eq!(rental.says("cat /root/sent; stat -c %a /root/sent"), "by ansible600\n");
}

fn paramiko(rental: &Rental) {
    python(rental, PARAMIKO);
}

const PARAMIKO: &str = "
import hashlib, os, sys, paramiko
host, port, user, folder = sys.argv[1:]
client = paramiko.SSHClient()
client.load_host_keys(folder + '/known_hosts')
client.set_missing_host_key_policy(paramiko.RejectPolicy())
client.connect(host, int(port), user, key_filename=folder + '/id', timeout=20, look_for_keys=False, allow_agent=False)
data = os.urandom(500000)
open(folder + '/p', 'wb').write(data)
sftp = client.open_sftp()
sftp.put(folder + '/p', '/tmp/p')
_, out, err = client.exec_command('sha256sum /tmp/p; /opt/conda/bin/python -c \"print(6*7)\"; exit 3')
said = out.read().decode()
assert said == hashlib.sha256(data).hexdigest() + '  /tmp/p\\n42\\n', said
assert out.channel.recv_exit_status() == 3
assert err.read() == b''
sftp.get('/tmp/p', folder + '/q')
assert open(folder + '/q', 'rb').read() == data
client.close()
print('done')
";

fn asyncssh(rental: &Rental) {
    python(rental, ASYNCSSH);
}

const ASYNCSSH: &str = "
import asyncio, sys, asyncssh
host, port, user, folder = sys.argv[1:]
async def main():
    async with asyncssh.connect(host, int(port), username=user, client_keys=[folder + '/id'], known_hosts=folder + '/known_hosts', config=None, agent_path=None) as connection:
        many = await asyncio.gather(*(connection.run(f'echo {n}; exit {n}') for n in range(10)))
        assert [(one.stdout, one.exit_status) for one in many] == [(f'{n}\\n', n) for n in range(10)]
        async with connection.start_sftp_client() as sftp:
            async with sftp.open('/tmp/a', 'w') as file:
                await file.write('x' * 100000)
            assert (await sftp.stat('/tmp/a')).size == 100000
        terminal = await connection.run('stty size; tty', term_type='xterm', term_size=(101, 37))
        assert '37 101' in terminal.stdout and '/dev/pts/' in terminal.stdout, terminal.stdout
asyncio.run(main())
print('done')
";

fn python(rental: &Rental, program: &str) {
    let Some(python) = judge("NICOMPUTE_TEST_SSH_CLIENTS") else {
        return skip("clients in Python: NICOMPUTE_TEST_SSH_CLIENTS is not set");
    };
    let mut command = crate::world::program(python.to_str().unwrap());
    command.args(["-c", program, &rental.host, &rental.port.to_string(), &rental.user]);
    command.arg(&rental.dir).env("HOME", &rental.dir);
    assert_eq!(text(run(command, b"")), "done\n");
}

/// A client that goes on beside the test and ends with it.
#[derive(Debug)]
struct Running {
    child: Child,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self { child: child.spawn().unwrap() }
    }

    /// Reads until a word came; what follows is read and dropped.
    fn wait_for_output(&mut self, word: &str) {
        let mut stdout = self.child.stdout.take().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let word = word.to_owned();
        std::thread::spawn(move || {
            let (mut seen, mut bytes) = (Vec::new(), [0; 1024]);
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                seen.extend_from_slice(&bytes[..length]);
                if String::from_utf8_lossy(&seen).contains(&word) {
                    let _ = tell.send(());
                    seen.clear();
                }
            }
        });
        told.recv_timeout(crate::world::LIMIT).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A plain HTTP question. An answer that does not come is none.
fn get(socket: &mut (impl std::io::Read + std::io::Write), path: &str) -> String {
    let question = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    drop(socket.write_all(question.as_bytes()));
    drop(socket.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Bytes without a pattern, the same every time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
