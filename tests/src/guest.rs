//! A machine in QEMU, for drivers that a network namespace does not have: a Debian kernel, an initramfs of this host's
//! programs, and a script of `tests/qemu` that runs in it.
//!
//! The machine is emulated in software (no /dev/kvm is needed): it starts in some seconds, and is slow. So one guest
//! looks at many things, writes what it saw into files of the folder that it shares with the host, and the test
//! judges those.

use crate::cmd::{self, Output};
use crate::daemon::{binary, target_dir};
use crate::{Netns, Proc, Qmp};
use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For the kernel: what makes a start quick under emulation, and no interface renamed.
const KERNEL: &str = "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off nopti no_timer_check \
    tsc=reliable lpj=4000000 audit=0 apparmor=0 selinux=0 rcupdate.rcu_expedited=1 cryptomgr.notests \
    raid=noautodetect random.trust_cpu=on net.ifnames=0";
/// `-cpu max` and not a named one with AVX: those hang under emulation.
const MACHINE: &str = "-nodefaults -no-user-config -display none -no-reboot -accel tcg,thread=multi,tb-size=256 \
    -machine q35 -cpu max -smp 2 -m 1024 -device isa-debug-exit,iobase=0xf4,iosize=1";

/// How long a machine may take to start: some seconds, ten times as long beside other tests.
const START: Duration = Duration::from_secs(60);

/// A machine, and the folder that it shares with the test. Killed on drop.
#[derive(Debug)]
pub struct Guest {
    qemu: Proc,
    share: tempfile::TempDir,
    /// Scripts that the agent was given.
    scripts: u32,
    // QEMU needs none of the host's network. The namespace goes after what runs in it.
    _ns: Netns,
}

impl Guest {
    /// Starts a machine with these devices (arguments of QEMU), runs `tests/qemu/SCRIPT` in it, and waits for its end.
    ///
    /// # Panics
    /// If QEMU or the kernel is missing, if it takes longer than `limit`, or if the script fails; with its console.
    #[track_caller]
    pub fn run(script: &str, devices: &str, limit: Duration) -> Guest {
        let mut guest = Self::boot(script, devices, false);
        let end = Instant::now() + limit;
        while guest.qemu.ended().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = guest.qemu.ended();
        // isa-debug-exit: twice the code of the script, and one.
        assert!(
            status.and_then(|status| status.code()) == Some(1),
            "QEMU ended with {status:?} (None: not within {limit:?})\n--- console\n{}--- the daemon's log\n{}",
            guest.try_file("console").unwrap_or_default(),
            guest.try_file("out/log").unwrap_or_default(),
        );
        guest
    }

    /// Starts a machine with these devices that then does what [`Guest::sh`] says.
    ///
    /// # Panics
    /// If QEMU or the kernel is missing, or if it is not ready within a minute; with its console.
    #[track_caller]
    pub fn start(devices: &str) -> Guest {
        let mut guest = Self::boot("agent.sh", devices, false);
        guest.wait_for("agent/0.code", START);
        guest
    }

    /// Starts a machine with these devices that waits for another one to migrate into it: [`Guest::incoming_uri`].
    ///
    /// # Panics
    /// If QEMU or the kernel is missing.
    #[track_caller]
    pub fn incoming(devices: &str) -> Guest {
        Self::boot("agent.sh", devices, true)
    }

    /// Where a machine of [`Guest::incoming`] listens, for QMP's `migrate`.
    pub fn incoming_uri(&self) -> String {
        format!("unix:{}", self.share.path().join("incoming").display())
    }

    /// Has the machine leave the folder that it shares with the test, with which it cannot migrate. It does nothing more
    /// until [`Guest::arrived`], but for what runs in the background. Whether it has left already, QMP's `migrate` says.
    #[track_caller]
    pub fn leave(&mut self) {
        self.scripts += 1;
        let file = self.share.path().join(format!("agent/{}.leave", self.scripts));
        std::fs::write(&file, "").unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
    }

    /// Goes on with what was `left` at its source, in the folder of this machine.
    ///
    /// # Panics
    /// If it does not answer within a minute; with its console.
    #[track_caller]
    pub fn arrived(&mut self, left: &Guest) {
        self.scripts = left.scripts;
        let port = self.share.path().join("serial");
        let woken = UnixStream::connect(&port).and_then(|mut to| to.write_all(b"\n"));
        woken.unwrap_or_else(|e| panic!("cannot write to {}: {e}", port.display()));
        self.wait_for(&format!("agent/{}.code", self.scripts), START);
    }

    /// Its monitor.
    ///
    /// # Panics
    /// If QEMU does not answer there.
    #[track_caller]
    pub fn qmp(&self) -> Qmp {
        Qmp::connect(&self.share.path().join("qmp"))
    }

    /// Runs a script of bash in a machine of [`Guest::start`]; gives its exit code and what it printed.
    ///
    /// # Panics
    /// If it takes longer than `limit`.
    #[track_caller]
    pub fn try_sh(&mut self, script: &str, limit: Duration) -> (i32, String) {
        self.scripts += 1;
        let at = |ending: &str| format!("agent/{}.{ending}", self.scripts);
        let (new, file) = (
            self.share.path().join(at("new")),
            self.share.path().join(at("sh")),
        );
        let given = std::fs::write(&new, script).and_then(|()| std::fs::rename(&new, &file));
        given.unwrap_or_else(|e| panic!("cannot give the guest a script: {e}"));
        let (code, out) = (at("code"), at("out"));
        self.wait_for(&code, limit);
        let code = self.try_file(&code).and_then(|text| text.trim().parse().ok());
        (code.unwrap_or(-1), self.try_file(&out).unwrap_or_default())
    }

    /// The same, of a script that does not fail, within a minute.
    ///
    /// # Panics
    /// If it fails; with what it printed.
    #[track_caller]
    pub fn sh(&mut self, script: &str) -> String {
        let (code, out) = self.try_sh(script, START);
        assert!(code == 0, "in the guest `{script}` ended with {code}: {out}");
        out
    }

    #[track_caller]
    fn wait_for(&mut self, file: &str, limit: Duration) {
        let path = self.share.path().join(file);
        let end = Instant::now() + limit;
        while !path.exists() {
            let status = self.qemu.ended();
            assert!(
                status.is_none() && Instant::now() < end,
                "no {file} from the guest within {limit:?}; QEMU ended with {status:?}\n{}\n--- console\n{}",
                self.qemu.log().join("\n"),
                self.try_file("console").unwrap_or_default(),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn boot(script: &str, devices: &str, incoming: bool) -> Guest {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu");
        let kernel = target_dir().join("qemu");
        build(&sources, &kernel);
        let share = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder for the guest: {e}"));
        let at = |name: &str| share.path().join(name).display().to_string();
        std::fs::copy(sources.join(script), at(script))
            .unwrap_or_else(|e| panic!("cannot copy {script}: {e}"));
        // Without the symbols it is a third of the size, which is read through an emulated device.
        cmd::run(&["strip", "-o", &at("clearway"), &binary().display().to_string()]).ok();

        let mut words = vec!["qemu-system-x86_64".to_owned()];
        words.extend(MACHINE.split_whitespace().map(str::to_owned));
        words.extend(devices.split_whitespace().map(str::to_owned));
        if incoming {
            words.extend(["-incoming".into(), format!("unix:{}", at("incoming"))]);
        }
        let folder = share.path().display();
        for (option, value) in [
            ("-kernel", kernel.join("vmlinux").display().to_string()),
            ("-initrd", kernel.join("initramfs.cpio").display().to_string()),
            ("-append", format!("{KERNEL} test={script}")),
            ("-serial", format!("file:{}", at("console"))),
            ("-serial", format!("unix:{},server=on,wait=off", at("serial"))),
            ("-qmp", format!("unix:{},server=on,wait=off", at("qmp"))),
            (
                "-virtfs",
                format!("local,path={folder},mount_tag=host,security_model=none"),
            ),
        ] {
            words.extend([option.to_owned(), value]);
        }
        let ns = Netns::new("guest");
        let mut guest = Guest {
            qemu: Proc::start(&ns, &words),
            share,
            scripts: 0,
            _ns: ns,
        };
        if incoming {
            guest.wait_for("incoming", START);
        }
        guest
    }

    /// A file that the script wrote below `out`.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn file(&self, name: &str) -> String {
        self.try_file(&format!("out/{name}"))
            .unwrap_or_else(|| panic!("the guest wrote no out/{name}"))
    }

    /// The same, as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        let text = self.file(name);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("out/{name}: {e}: {text}"))
    }

    fn try_file(&self, name: &str) -> Option<String> {
        let bytes = std::fs::read(self.share.path().join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Makes kernel and initramfs, unless they are there and up to date.
#[track_caller]
fn build(sources: &Path, kernel: &Path) -> Output {
    let words: [PathBuf; 3] = [sources.join("build.sh"), kernel.to_owned(), binary()];
    let out = cmd::run(&words.map(|word| word.display().to_string()));
    assert!(out.code == 0, "no guest: {}", out.text());
    out
}
