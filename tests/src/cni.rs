//! A container runtime's side of CNI, as libcni has it (SPEC.md 1.1.0, sections 2 and 3): a list of plugins, run one after
//! the other with the environment and the stdin that the specification says, and the result of each ADD remembered.

use crate::Netns;
use crate::daemon::built;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The plugins of Debian's package containernetworking-plugins (`scripts/setup.sh`).
const DEBIAN: &str = "/usr/lib/cni";

/// A container, as a runtime names it to plugins.
#[derive(Debug, Clone)]
pub struct Container {
    /// `CNI_CONTAINERID`
    pub id: String,
    /// `CNI_NETNS`; empty when it is gone.
    pub netns: String,
    /// `CNI_IFNAME`
    pub interface: String,
    /// `CNI_ARGS`
    pub args: String,
    /// What the runtime has for each capability; plugins get what theirs are.
    pub capabilities: Value,
}

impl Container {
    /// `net1` of container `id` in this namespace.
    pub fn new(id: &str, netns: &Netns) -> Container {
        Container {
            id: id.to_owned(),
            netns: netns.path().display().to_string(),
            interface: "net1".into(),
            args: String::new(),
            capabilities: json!({}),
        }
    }

    /// The same with another interface.
    pub fn interface(&self, name: &str) -> Container {
        Container {
            interface: name.to_owned(),
            ..self.clone()
        }
    }

    /// The same with what the runtime has for a capability.
    pub fn capability(&self, name: &str, value: Value) -> Container {
        let mut other = self.clone();
        other.capabilities[name] = value;
        other
    }

    /// The same after its namespace is gone.
    pub fn without_netns(&self) -> Container {
        Container {
            netns: String::new(),
            ..self.clone()
        }
    }
}

/// The error object of a plugin.
#[derive(Debug, Clone)]
pub struct CniFailure {
    /// `type` of the plugin.
    pub plugin: String,
    /// `code`; 0 if it ended without an error object.
    pub code: u64,
    /// `msg` and `details`, or what it printed.
    pub text: String,
}

/// What a verb came to.
pub type CniOutcome = Result<Value, CniFailure>;

/// A network: a list of plugins, and the results that the runtime remembers.
#[derive(Debug)]
pub struct CniNetwork<'a> {
    host: &'a Netns,
    list: Value,
    path: String,
    cache: Mutex<BTreeMap<(String, String), Value>>,
}

impl<'a> CniNetwork<'a> {
    /// A list (`cniVersion`, `name`, `plugins`) whose plugins run in `host`: those in `folder`, and Debian's.
    ///
    /// # Panics
    /// If the plugin under test is not built (`CLEARWAY_CNI_BIN` names another).
    #[track_caller]
    pub fn new(host: &'a Netns, folder: &Path, list: Value) -> CniNetwork<'a> {
        install(folder);
        CniNetwork {
            host,
            list,
            path: format!("{}:{DEBIAN}", folder.display()),
            cache: Mutex::default(),
        }
    }

    /// The same network changed since the results of `before`.
    pub fn recall(self, before: &CniNetwork<'_>) -> Self {
        self.cache().extend(before.cache().clone());
        self
    }

    /// The list.
    pub fn list(&self) -> &Value {
        &self.list
    }

    /// The list, to be changed as a runtime's configuration is.
    pub fn list_mut(&mut self) -> &mut Value {
        &mut self.list
    }

    /// ADD by each plugin, each with the result of the one before. The last one's result is remembered.
    pub fn add(&self, container: &Container) -> CniOutcome {
        let mut result = None;
        for plugin in self.plugins() {
            let conf = self.conf(plugin, container, result.as_ref());
            result = Some(self.run(plugin, "ADD", Some(container), &conf)?);
        }
        let result = result.unwrap_or_default();
        self.cache().insert(key(container), result.clone());
        Ok(result)
    }

    /// CHECK by each plugin, with the remembered result.
    pub fn check(&self, container: &Container) -> Result<(), CniFailure> {
        let known = self.known(container);
        for plugin in self.plugins() {
            let conf = self.conf(plugin, container, known.as_ref());
            self.run(plugin, "CHECK", Some(container), &conf)?;
        }
        Ok(())
    }

    /// DEL by each plugin in reverse order. The result is handed over from version 0.4.0 on, and forgotten when all is done.
    pub fn del(&self, container: &Container) -> Result<(), CniFailure> {
        let known = self.known(container).filter(|_| self.version() >= "0.4.0");
        for plugin in self.plugins().iter().rev() {
            let conf = self.conf(plugin, container, known.as_ref());
            self.run(plugin, "DEL", Some(container), &conf)?;
        }
        self.cache().remove(&key(container));
        Ok(())
    }

    /// GC by each plugin: these are valid.
    pub fn gc(&self, valid: &[&Container]) -> Result<(), CniFailure> {
        let valid = valid
            .iter()
            .map(|c| json!({"containerID": c.id, "ifname": c.interface}));
        let valid: Value = valid.collect();
        for plugin in self.plugins() {
            let mut conf = self.bare(plugin);
            conf.insert("cni.dev/valid-attachments".into(), valid.clone());
            self.run(plugin, "GC", None, &conf)?;
        }
        Ok(())
    }

    /// STATUS of each plugin.
    pub fn status(&self) -> Result<(), CniFailure> {
        for plugin in self.plugins() {
            self.run(plugin, "STATUS", None, &self.bare(plugin))?;
        }
        Ok(())
    }

    /// VERSION of the first plugin.
    pub fn versions(&self) -> CniOutcome {
        let conf = Map::from_iter([("cniVersion".to_owned(), json!(self.version()))]);
        self.run(&self.plugins()[0], "VERSION", None, &conf)
    }

    /// Starts a verb of the first plugin and does not wait.
    #[track_caller]
    pub fn start(&self, verb: &str, container: &Container) -> Child {
        let plugin = &self.plugins()[0];
        let known = self.known(container);
        self.spawn(
            plugin,
            verb,
            Some(container),
            &self.conf(plugin, container, known.as_ref()),
        )
    }

    /// The result that the runtime remembers, if it does.
    pub fn known(&self, container: &Container) -> Option<Value> {
        self.cache().get(&key(container)).cloned()
    }

    fn cache(&self) -> MutexGuard<'_, BTreeMap<(String, String), Value>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self) -> &str {
        self.list["cniVersion"].as_str().unwrap_or_default()
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    /// A plugin's part of the list, with the list's name and version.
    fn bare(&self, plugin: &Value) -> Map<String, Value> {
        let mut conf = plugin.as_object().cloned().unwrap_or_default();
        conf.insert("cniVersion".into(), self.list["cniVersion"].clone());
        conf.insert("name".into(), self.list["name"].clone());
        conf
    }

    /// The same for one container: `runtimeConfig` of the plugin's own capabilities, and `prevResult`.
    fn conf(&self, plugin: &Value, container: &Container, previous: Option<&Value>) -> Map<String, Value> {
        let mut conf = self.bare(plugin);
        let mut runtime = container.capabilities.as_object().cloned().unwrap_or_default();
        runtime.retain(|name, _| plugin["capabilities"][name] == true);
        if !runtime.is_empty() {
            conf.insert("runtimeConfig".into(), runtime.into());
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.clone());
        }
        conf
    }

    fn run(
        &self,
        plugin: &Value,
        verb: &str,
        container: Option<&Container>,
        conf: &Map<String, Value>,
    ) -> CniOutcome {
        let name = plugin["type"].as_str().unwrap_or_default();
        let child = self.spawn(plugin, verb, container, conf);
        let output = child
            .wait_with_output()
            .unwrap_or_else(|e| panic!("{name} {verb}: {e}"));
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let said: Value = serde_json::from_str(&stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(said);
        }
        let word = |key: &str| said[key].as_str().unwrap_or_default();
        Err(CniFailure {
            plugin: name.to_owned(),
            code: said["code"].as_u64().unwrap_or(0),
            text: match word("msg") {
                "" => format!("{}: {stdout}{stderr}", output.status),
                msg => format!("{msg}: {}", word("details")),
            },
        })
    }

    #[track_caller]
    fn spawn(
        &self,
        plugin: &Value,
        verb: &str,
        container: Option<&Container>,
        conf: &Map<String, Value>,
    ) -> Child {
        let name = plugin["type"].as_str().unwrap_or_default();
        let mut folders = self.path.split(':').map(|folder| Path::new(folder).join(name));
        let program = folders.find(|path| path.exists()).unwrap_or_else(|| {
            panic!(
                "no CNI plugin {name} in {}; `make setup` installs Debian's",
                self.path
            )
        });
        let words = self.host.prefix();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(&program);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", &self.path);
        if let Some(container) = container {
            command
                .env("CNI_CONTAINERID", &container.id)
                .env("CNI_NETNS", &container.netns)
                .env("CNI_IFNAME", &container.interface)
                .env("CNI_ARGS", &container.args);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
        let stdin = serde_json::to_vec(conf).unwrap_or_default();
        // One that is killed at once does not read it.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&stdin));
        child
    }
}

/// The plugin under test: `CLEARWAY_CNI_BIN`, or what was built beside this test.
///
/// # Panics
/// If it is not built.
#[track_caller]
pub fn cni_binary() -> PathBuf {
    built("clearway-cni", "CLEARWAY_CNI_BIN")
}

/// Puts it into a folder as `clearway-cni`.
#[track_caller]
fn install(folder: &Path) {
    match std::os::unix::fs::symlink(cni_binary(), folder.join("clearway-cni")) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {e}", folder.display()),
        _ => {}
    }
}

fn key(container: &Container) -> (String, String) {
    (container.id.clone(), container.interface.clone())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
