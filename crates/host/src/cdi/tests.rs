//! Specs as the toolkit writes them, and specs that nobody should write.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use expect_test::expect;

use super::*;

const UUID: &str = "GPU-8c3a2c5e-0001-4f7e-9a41-1c3d5e7f9a0b";
const OTHER: &str = "GPU-8c3a2c5e-0002-4f7e-9a41-1c3d5e7f9a0b";
const SLICE: &str = "MIG-0f1e2d3c-0003-4f7e-9a41-1c3d5e7f9a0b";

/// What `nvidia-ctk cdi generate` writes by default: GPUs by index, one of them cut, and a device `all`.
const BY_INDEX: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia1
              hostPath: /dev/nvidia1
            - path: /dev/dri/renderD129
        hooks:
            - hookName: createContainer
              path: /usr/bin/nvidia-cdi-hook
              args: [nvidia-cdi-hook, chmod, --mode, "755", --path, /dev/dri]
    - name: "1:0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
            - path: /dev/nvidia-caps/nvidia-cap30
              permissions: rwm
            - path: /dev/nvidia-caps/nvidia-cap31
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
            - path: /dev/nvidia1
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    deviceNodes:
        - path: /dev/nvidiactl
        - path: /dev/nvidia-uvm
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-ctk
          args:
            - nvidia-ctk
            - hook
            - create-symlinks
            - --link
            - libcuda.so.1::/usr/lib/x86_64-linux-gnu/libcuda.so
            - --link=../libnvidia-allocator.so.1::/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
          env: [NVIDIA_CTK_DEBUG=false]
    mounts:
        - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
          containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
          options: [ro, nosuid, nodev, bind]
        - hostPath: /run/nvidia-persistenced/socket
          containerPath: /run/nvidia-persistenced/socket
          options: [ro, nosuid, nodev, bind, noexec]
    additionalGids: [44]
"#;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    dir
}

fn known(uuid: &str, name: &str, minor: u32) -> (String, KnownAs) {
    (uuid.to_owned(), KnownAs { name: name.to_owned(), minor: Some(minor) })
}

/// A spec with one GPU under its UUID whose edits and common edits are given.
fn with_edits(own: &str, common: &str) -> Result<Injection, CdiError> {
    let node = r#"{"path": "/dev/nvidia0"}"#;
    let nodes =
        if own.contains("deviceNodes") { "" } else { &format!(r#""deviceNodes": [{node}]"#) };
    let comma = if own.is_empty() || nodes.is_empty() { "" } else { "," };
    let text = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "containerEdits": {{{common}}},
            "devices": [{{"name": "{UUID}", "containerEdits": {{{nodes}{comma}{own}}}}}]}}"#
    );
    let dir = folder(&[("nvidia.json", &text)]);
    Registry::load(&[dir.path()]).injection(&[UUID])
}

/// What is injected, a line each.
fn lines(injection: &Injection) -> String {
    let devices = injection.devices.iter().map(|node| {
        format!("{} {} {}", node.host.display(), node.container.display(), node.permissions)
    });
    let mounts = injection
        .mounts
        .iter()
        .map(|mount| format!("mount {} {}", mount.host.display(), mount.container.display()));
    let links =
        injection.links().map(|link| format!("link {} -> {}", link.place.display(), link.target));
    let folders = injection.library_folders().map(|folder| format!("loader {}", folder.display()));
    let variables = injection.environment.iter().map(|(name, value)| format!("{name}={value}"));
    let left_out = injection.left_out.iter().map(|line| format!("without {line}"));
    let all = devices.chain(mounts).chain(links).chain(folders).chain(variables).chain(left_out);
    all.map(|line| line + "\n").collect()
}

fn refusal(own: &str, common: &str) -> String {
    let error = with_edits(own, common).unwrap_err();
    assert!(error.remedy().contains("nvidia-ctk cdi generate"));
    let text = error.to_string();
    let file = text.find("/tmp/").map_or(0, |at| at);
    let end = text[file..].find("nvidia.json").map_or(file, |at| file + at);
    format!("{}{}", &text[..file], &text[end..])
}

/// A tenant would get all GPUs, or none, where the toolkit's own spec is misread.
#[test]
fn the_toolkits_own_spec_gives_one_gpu() {
    let dir = folder(&[("nvidia.yaml", BY_INDEX)]);
    let registry = Registry::load(&[dir.path()]).knowing([
        known(UUID, "0", 1),
        known(SLICE, "1:0", 0),
        known(OTHER, "1", 0),
    ]);
    assert!(registry.unread().is_empty(), "{:?}", registry.unread());
    expect![[r#"
        /dev/nvidiactl /dev/nvidiactl rw
        /dev/nvidia-uvm /dev/nvidia-uvm rw
        /dev/nvidia1 /dev/nvidia1 rw
        mount /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15 /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
        link /usr/lib/x86_64-linux-gnu/libcuda.so -> libcuda.so.1
        link /usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so -> ../libnvidia-allocator.so.1
        loader /usr/lib/x86_64-linux-gnu
        NVIDIA_VISIBLE_DEVICES=void
        without /run/nvidia-persistenced/socket: sockets and pipes of the host are not shown to tenants
        without additionalGids: edits of this kind are not made
        without /dev/dri/renderD129: its number does not tell whose it is, and it may be another GPU's
    "#]].assert_eq(&lines(&registry.injection(&[UUID]).unwrap()));
    let slice = registry.injection(&[SLICE]).unwrap();
    expect![[r#"
        /dev/nvidiactl /dev/nvidiactl rw
        /dev/nvidia-uvm /dev/nvidia-uvm rw
        /dev/nvidia0 /dev/nvidia0 rw
        /dev/nvidia-caps/nvidia-cap30 /dev/nvidia-caps/nvidia-cap30 rw
        /dev/nvidia-caps/nvidia-cap31 /dev/nvidia-caps/nvidia-cap31 rw
        mount /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15 /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15
        link /usr/lib/x86_64-linux-gnu/libcuda.so -> libcuda.so.1
        link /usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so -> ../libnvidia-allocator.so.1
        loader /usr/lib/x86_64-linux-gnu
        NVIDIA_VISIBLE_DEVICES=void
        without /run/nvidia-persistenced/socket: sockets and pipes of the host are not shown to tenants
        without additionalGids: edits of this kind are not made
    "#]].assert_eq(&lines(&slice));
    assert!(slice.devices.iter().all(|node| node.permissions == "rw"), "nobody makes nodes");
    assert_eq!(slice.links().count(), 2);
    assert_eq!(slice.library_folders().count(), 1);
    // The machine of the tests has no such driver: the spec is older than what is there.
    assert!(matches!(slice.check_on_host(), Err(CdiError::Stale { .. })));
    let both = registry.injection(&[UUID, SLICE]).unwrap();
    assert_eq!(both.devices.len(), 6, "what both need is there once");
    assert!(matches!(registry.injection(&[OTHER]), Err(CdiError::UnknownGpu { .. })), "it is cut");
    assert!(matches!(registry.injection(&["all"]), Err(CdiError::NodeCount { count: 2, .. })));
    assert_eq!(registry.injection::<&str>(&[]).unwrap(), Injection::default());
}

/// After cards were moved, an old spec's index would give a tenant a GPU that another one has leased.
#[test]
fn an_old_spec_does_not_give_another_gpu() {
    let dir = folder(&[("nvidia.yaml", BY_INDEX)]);
    let registry = Registry::load(&[dir.path()]).knowing([known(UUID, "0", 0)]);
    let error = registry.injection(&[UUID]).unwrap_err();
    assert!(matches!(error, CdiError::OtherGpu { minor: 0, .. }), "{error}");
    assert!(error.remedy().contains("older than the driver"));
}

/// A spec that asks for more than a GPU would open the host to a tenant.
#[test]
fn what_a_tenant_must_not_have_is_refused() {
    let mount = |host: &str, container: &str| {
        format!(r#""mounts": [{{"hostPath": "{host}", "containerPath": "{container}"}}]"#)
    };
    let node = |path: &str, host: &str| {
        format!(
            r#""deviceNodes": [{{"path": "/dev/nvidia0"}}, {{"path": "{path}", "hostPath": "{host}"}}]"#
        )
    };
    let hook = |args: &str| {
        format!(
            r#""hooks": [{{"hookName": "createContainer", "path": "/bin/sh", "args": [{args}]}}]"#
        )
    };
    let cases = [
        mount("/", "/host"),
        mount("/etc", "/mnt/etc"),
        mount("/usr", "/mnt/usr"),
        mount("/usr/../etc/shadow", "/mnt/a"),
        mount("/root/.bittensor/wallets", "/mnt/a"),
        mount("usr/lib/a.so", "/usr/lib/a.so"),
        mount("/usr/lib/a.so", "/proc/self/a.so"),
        mount("/usr/lib/a.so", "/.nicompute/agent"),
        mount("/usr/lib/a.so", "/usr/../proc/a.so"),
        mount("/usr/lib/a\\n.so", "/usr/lib/a.so"),
        node("/dev/sda", "/dev/sda"),
        node("/dev/nvidiactl", "/dev/sda"),
        node("/dev/nvidia-uvm", "/dev/nvidia-uvm/../mem"),
        node("/dev/nvidia1", "/dev/nvidia1"),
        hook(r#""sh", "-c", "true""#),
        hook(""),
        hook(r#""nvidia-cdi-hook", "create-symlinks", "--link", "no pair""#),
        hook(r#""nvidia-cdi-hook", "create-symlinks", "--link", "../../../etc::/usr/lib/a""#),
        hook(r#""nvidia-cdi-hook", "create-symlinks", "--link", "a::/dev/../etc/b""#),
        hook(r#""nvidia-cdi-hook", "update-ldcache", "--folder", "../lib""#),
        r#""env": ["LD_PRELOAD=/a.so"]"#.to_owned(),
        r#""env": ["PATH=/a"]"#.to_owned(),
        r#""env": ["A B=c"]"#.to_owned(),
        r#""env": ["=c"]"#.to_owned(),
    ];
    let mut told: String = cases.iter().map(|own| refusal(own, "") + "\n").collect();
    told += &refusal("", r#""deviceNodes": [{"path": "/dev/nvidia7"}]"#);
    expect![[r#"
        the CDI spec nvidia.json has "/", which is no absolute path without `..`
        the CDI spec nvidia.json has "/etc", which is nothing that a tenant may see
        the CDI spec nvidia.json has "/usr", which is a whole tree of the host
        the CDI spec nvidia.json has "/usr/../etc/shadow", which is no absolute path without `..`
        the CDI spec nvidia.json has "/root/.bittensor/wallets", which is nothing that a tenant may see
        the CDI spec nvidia.json has "usr/lib/a.so", which is no absolute path without `..`
        the CDI spec nvidia.json has "/proc/self/a.so", which is no place for a driver's file
        the CDI spec nvidia.json has "/.nicompute/agent", which is no place for a driver's file
        the CDI spec nvidia.json has "/usr/../proc/a.so", which is no absolute path without `..`
        the CDI spec nvidia.json has "/usr/lib/a\n.so", which is too long or not printable
        the CDI spec nvidia.json has "/dev/sda", which is no device node of the GPU driver
        the CDI spec nvidia.json has "/dev/nvidiactl", which is another device on the host
        the CDI spec nvidia.json has "/dev/nvidia-uvm/../mem", which is no absolute path without `..`
        the CDI spec gives GPU-8c3a2c5e-0001-4f7e-9a41-1c3d5e7f9a0b 2 GPUs' device nodes instead of one
        the CDI spec nvidia.json wants the hook "-c", which cannot be replaced
        the CDI spec nvidia.json wants the hook "/bin/sh", which cannot be replaced
        the CDI spec nvidia.json has "no pair", which is no pair of target and link
        the CDI spec nvidia.json has "../../../etc::/usr/lib/a", which points out of the container
        the CDI spec nvidia.json has "/dev/../etc/b", which is no absolute path without `..`
        the CDI spec nvidia.json has "../lib", which is no absolute path without `..`
        the CDI spec nvidia.json sets the variable "LD_PRELOAD"
        the CDI spec nvidia.json sets the variable "PATH"
        the CDI spec nvidia.json sets the variable "A B"
        the CDI spec nvidia.json sets the variable ""
        the CDI spec nvidia.json gives every container the device node /dev/nvidia7"#]].assert_eq(&told);
    assert!(with_edits("", "").is_ok());
}

/// A file that anybody can write, a pipe or a heap of garbage must neither be believed nor hold the node up.
#[test]
fn files_that_are_no_specs() {
    let deep = "[".repeat(200);
    let flat = format!("- {}", "- ".repeat(2_000));
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\n";
    let large = " ".repeat(usize::try_from(files::SPEC_BYTES_MAX).unwrap() + 1);
    let cases = [
        ("a.json", "{"),
        ("b.json", r#"{"cdiVersion": "0.5.0", "kind": 7}"#),
        ("c.json", r#"{"cdiVersion": "9.0.0", "kind": "nvidia.com/gpu"}"#),
        ("d.yaml", bomb),
        ("e.yaml", "a: 1\na: 2\n"),
        ("f.yaml", "--- {}\n--- {}\n"),
        ("g.yaml", "!!binary abc\n"),
        ("h.yaml", "? [a]\n: b\n"),
        ("i.yaml", &deep),
        ("j.yml", &flat),
        ("k.yaml", ""),
        ("l.yaml", "\u{0}\u{1}: {{{"),
        ("m.json", &large),
        ("n.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: 0}]\n"),
        ("ignored.txt", "{}"),
    ];
    let dir = folder(&cases);
    fs::write(dir.path().join("o.json"), "{}").unwrap();
    fs::set_permissions(dir.path().join("o.json"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(dir.path().join("p.json")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("q.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let registry = Registry::load(&[dir.path()]);
    let told: String = registry
        .unread()
        .iter()
        .map(|unread| {
            let name = unread.file.file_name().unwrap().to_str().unwrap();
            let problem: String = unread.problem.to_string().chars().take(90).collect();
            format!("{name}: {problem}\n")
        })
        .collect();
    expect![[r#"
        a.json: it does not have the shape of a CDI spec: EOF while parsing an object at line 1 column 1
        b.json: it does not have the shape of a CDI spec: invalid type: integer `7`, expected a string
        c.json: its version "9.0.0" is not known
        d.yaml: it is no YAML that is read here: an anchor or a tag
        e.yaml: it is no YAML that is read here: the key "a" twice
        f.yaml: it is no YAML that is read here: more than one document
        g.yaml: it is no YAML that is read here: an anchor or a tag
        h.yaml: it is no YAML that is read here: a key that is no text
        i.yaml: it is no YAML that is read here: deeper than 24 levels
        j.yml: it is no YAML that is read here: deeper than 24 levels
        k.yaml: it is no YAML that is read here: no document
        l.yaml: it is no YAML that is read here: found unprintable character at byte 0 line 1 column 1
        m.json: it is larger than 1048576 bytes
        n.yaml: it does not have the shape of a CDI spec: invalid type: integer `0`, expected a string
        o.json: it can be changed by others than root
        p.json: it is no regular file
        q.yaml: it is no regular file
    "#]].assert_eq(&told);
    let error = registry.injection(&[UUID]).unwrap_err();
    assert!(matches!(error, CdiError::Unusable { .. }), "{error}");
    let error =
        Registry::load(&DIRS.map(|dir| format!("{dir}.none"))).injection(&[UUID]).unwrap_err();
    expect!["no CDI spec of nvidia.com/gpu lies in /etc/cdi.none, /var/run/cdi.none"]
        .assert_eq(&error.to_string());
}

/// Which of two specs holds would be chance.
#[test]
fn a_later_folder_wins_and_two_opinions_are_none() {
    let spec = |minor: u32| {
        format!(
            "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: {UUID}\n  containerEdits:\n    \
             deviceNodes:\n    - path: /dev/nvidia{minor}\n"
        )
    };
    let (old, new) = (spec(0), spec(1));
    let first = folder(&[("a.yaml", &old)]);
    let second =
        folder(&[("a.yaml", &new), ("other.yaml", "cdiVersion: 0.5.0\nkind: amd.com/gpu\n")]);
    let registry = Registry::load(&[first.path(), second.path()]);
    assert_eq!(registry.injection(&[UUID]).unwrap().devices[0].gpu_minor(), Some(1));
    assert_eq!(registry.files().count(), 2);
    let both = folder(&[("a.yaml", &old), ("b.yaml", &new)]);
    let error = Registry::load(&[both.path()]).injection(&[UUID]).unwrap_err();
    assert!(matches!(error, CdiError::Ambiguous { .. }), "{error}");
    let same = folder(&[("a.yaml", &old), ("b.yaml", &old)]);
    assert!(Registry::load(&[same.path()]).injection(&[UUID]).is_ok());
}

/// A panic on a damaged spec would take the node down at each lease.
#[test]
fn damaged_specs_are_refused_in_good_order() {
    let mut seed = 7_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap()
    };
    let file = Path::new("/etc/cdi/nvidia.yaml");
    for _ in 0..400 {
        let mut bytes = BY_INDEX.as_bytes().to_vec();
        for _ in 0..=next() % 4 {
            let at = next() % bytes.len();
            match next() % 3 {
                0 => bytes[at] = u8::try_from(next() % 128).unwrap(),
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let Ok(spec) = spec::parse(file, &text, 0) else { continue };
        let registry = Registry { specs: vec![spec], ..Registry::default() };
        for name in ["0", "1:0", "all"] {
            drop(registry.injection(&[name]));
        }
    }
}

/// More than a limit would be an answer of unbounded size.
#[test]
fn an_injection_is_bounded() {
    let registry = Registry::default();
    let error = registry.injection(&vec!["GPU-1"; GPUS_MAX + 1]).unwrap_err();
    assert!(matches!(error, CdiError::TooMany { max: GPUS_MAX, .. }));
    let nodes = |count: usize| {
        let caps: Vec<String> = (0..count)
            .map(|at| format!(r#"{{"path": "/dev/nvidia-caps/nvidia-cap{at}"}}"#))
            .collect();
        with_edits("", &format!(r#""deviceNodes": [{}]"#, caps.join(",")))
    };
    assert!(nodes(edits::DEVICES_MAX - 1).is_ok());
    assert!(matches!(nodes(edits::DEVICES_MAX), Err(CdiError::TooMany { .. })));
}

/// A tenant would be given another tenant's GPU, all of them, or one more than it rented.
#[test]
fn only_uuids_are_asked_for() {
    let uuids =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    assert!(are_uuids(&uuids(&["GPU-1", "MIG-0a-1"])));
    assert!(are_uuids(&[]));
    let long = format!("GPU-{}", "a".repeat(UUID_LEN_MAX));
    for bad in ["all", "0", "0:1", "", "GPU-", "GPU-1,GPU-2", "GPU-1=x", "GPU-1\n", "none", &long] {
        assert!(!are_uuids(&uuids(&[bad])), "{bad:?}");
    }
    assert!(!are_uuids(&uuids(&["GPU-1", "GPU-1"])));
}

/// Programs ask for `libcuda.so` and `libcuda.so.1`, and would find neither in the container.
#[test]
fn links_become_places_of_what_they_lead_to() {
    let dir = tempfile::tempdir().expect("dir");
    std::os::unix::fs::symlink("libcuda.so.550.1", dir.path().join("libcuda.so.1")).expect("link");
    let library = dir.path().join("libcuda.so.550.1");
    let lib = PathBuf::from("/usr/lib/gpu");
    let link = |target: &str, place: &str| Link { target: target.to_owned(), place: place.into() };
    let injection = Injection {
        mounts: vec![Mount { host: library.clone(), container: lib.join("libcuda.so.550.1") }],
        hooks: vec![Hook::Symlinks(vec![
            link("libcuda_x.so", "/usr/lib/gpu/libcuda_y.so"),
            link("../gpu/./libcuda.so.1", "/usr/lib/gpu/libcuda_x.so"),
            link("libnowhere.so.1", "/usr/lib/gpu/libnowhere.so"),
        ])],
        ..Injection::default()
    };
    let names = ["libcuda.so.1", "libcuda.so.550.1", "libcuda_x.so", "libcuda_y.so"];
    let expected: BTreeMap<PathBuf, &Path> =
        names.into_iter().map(|name| (lib.join(name), &*library)).collect();
    assert_eq!(injection.files(), expected);
}

/// A link that took the place of a driver's file would show a tenant the machine's secrets, or a socket to its services.
#[test]
fn links_on_the_host_lead_to_drivers_files() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("dir");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("lib.so.1"), "x").expect("write");
    let link = |name: &str, target: &str| {
        std::os::unix::fs::symlink(target, at(name)).expect("link");
        Mount::source(&at(name))
    };
    assert_eq!(link("good", "lib.so.1").expect("a file"), at("lib.so.1"));
    for (name, target) in
        [("null", "/dev/null"), ("proc", "/proc/self/status"), ("etc", "/etc"), ("all", "/usr")]
    {
        let error = link(name, target).expect_err(target);
        assert!(matches!(error, CdiError::Leads { .. }), "{error}");
    }
    let error = link("gone", "nowhere").expect_err("nothing there");
    assert!(matches!(error, CdiError::Stale { .. }), "{error}");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bind");
    assert!(matches!(Mount::source(&at("socket")), Err(CdiError::Leads { .. })));
}
