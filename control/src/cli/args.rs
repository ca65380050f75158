//! The command line: one definition makes the parser, `--help`, the man pages and the completions.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use clearway_config::Name;
use clearway_wire::MacAddr;

use crate::host::restore::STATE_DIR;

/// A packet forwarder in userspace: bridge domains, VLANs and VXLAN between AF_XDP, vhost-user and TAP ports.
///
/// `clearway run` is the daemon; most other commands ask it something over its unix socket. To see it at work on
/// this machine, without touching its interfaces: `clearway demo`.
#[derive(Debug, Parser)]
#[command(
    name = "clearway",
    version,
    arg_required_else_help = true,
    propagate_version = false,
    max_term_width = 100,
    after_long_help = "Exit status: 0: done. 1: it failed; standard error says what was tried, why it failed and what to do. 2: the \
                       command line is wrong."
)]
pub(crate) struct Cli {
    /// The daemon's unix socket [default: the configuration's `api.socket` for `run`, /run/clearway/clearway.sock for all else]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Run),
    Apply(Apply),
    Validate(Validate),
    /// Print the JSON schema of a configuration, for editors
    Schema,
    Get(Get),
    Why(Why),
    /// Add, remove and forget stations by hand
    #[command(subcommand)]
    Fdb(Fdb),
    /// Show and set up the SR-IOV functions of this host, without a daemon
    #[command(subcommand)]
    Sriov(Sriov),
    Doctor(Doctor),
    Demo(Demo),
    Completions(Completions),
    Man(Man),
    /// Print this program's version, and the daemon's if one answers
    Version,
}

/// Run the daemon
///
/// Prints `ready` when every port of the configuration forwards (and tells systemd). SIGTERM and SIGINT end it; every
/// interface is then given back as it was found. Ports come from a configuration file or, for a first try, from --port.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("ports").required(true).args(["config", "port"]),
    after_long_help = "Examples:\n  clearway run --config /etc/clearway/clearway.yaml\n  \
                       clearway run --port af-xdp:eth1 --port af-xdp:veth1,mode=copy\n  \
                       clearway run --port af-xdp:eth1 --port af-xdp:eth2 --cross-connect --core 2"
)]
pub(crate) struct Run {
    /// The configuration file (YAML)
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// A port instead of a file; all of them are in one learning bridge domain named `default`. KIND:ARG is af-xdp:INTERFACE,
    /// tap:INTERFACE, vhost-user:SOCKET, pcapng:FILE or memory:NAME; the keys are a port's in the configuration file. May be
    /// given several times
    #[arg(short, long, value_name = "KIND:ARG[,key=value…]")]
    pub(crate) port: Vec<String>,
    /// With --port: the core of the only worker [default: chosen]
    #[arg(long, requires = "port", conflicts_with = "config")]
    pub(crate) core: Option<u16>,
    /// With two --port: send what comes from one to the other unchanged, without learning
    #[arg(long, requires = "port", conflicts_with = "config")]
    pub(crate) cross_connect: bool,
    /// Where the original settings of interfaces are kept, so that they are given back also after a crash
    #[arg(long, value_name = "DIR", default_value = STATE_DIR, value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: PathBuf,
    /// Where attachments (pods of the CNI plugin), their addresses and the applied configuration are kept [default:
    /// /var/lib/clearway/store.redb, with --state-dir store.redb in that]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) store: Option<PathBuf>,
    /// What is logged, on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info", value_enum)]
    pub(crate) log_level: LogLevel,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Have the daemon use another configuration, while it runs
///
/// What the file does not change goes on undisturbed: a port that is not named in the plan loses no packet. A file
/// that is wrong changes nothing.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The configuration file (YAML); `-`: standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if the configuration in use is of this generation, which --dry-run tells: nobody has changed it since
    #[arg(long, value_name = "N")]
    pub(crate) if_generation: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Check configuration files
///
/// Prints everything that is wrong, each with its file, line and column. Needs no daemon.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The files; `-`: standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
}

/// Show what the daemon does
#[derive(Debug, Args)]
#[command(
    after_help = "What to show may be singular or short: p, w, bd, a, f, t, o, d, c. An example: clearway get p --watch=2"
)]
pub(crate) struct Get {
    /// What to show
    #[arg(value_enum)]
    pub(crate) what: What,
    /// Only this one: a port, worker, domain, attachment (container, pod or port), tunnel (VTEP/REMOTE) or drop reason. For `fdb` the bridge domain, for `counters`
    /// the port, for `objects` a kind or KIND/NAME
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Show it again every so many seconds, until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = seconds)]
    pub(crate) watch: Option<Duration>,
}

/// Say why a pod gets its packets, or doesn't
///
/// Follows them from the pod's namespace and interface through port, bridge domain and tunnel to the last reasons for drops.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A container ID or its beginning, POD or NAMESPACE/POD, each with /INTERFACE or without, or a port's name
    pub(crate) attachment: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Ports,
    Workers,
    BridgeDomains,
    Attachments,
    Fdb,
    Tunnels,
    Objects,
    Drops,
    Counters,
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Ports,
            Self::Workers,
            Self::BridgeDomains,
            Self::Attachments,
            Self::Fdb,
            Self::Tunnels,
            Self::Objects,
            Self::Drops,
            Self::Counters,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, aliases, help): (_, &[_], _) = match self {
            Self::Ports => (
                "ports",
                &["port", "p"],
                "What each port is attached to, how, and what passed it",
            ),
            Self::Workers => (
                "workers",
                &["worker", "w"],
                "The threads that forward, their cores and load",
            ),
            Self::BridgeDomains => (
                "bridge-domains",
                &["bridge-domain", "domains", "domain", "bds", "bd"],
                "The layer 2 segments and their members",
            ),
            Self::Attachments => (
                "attachments",
                &["attachment", "pods", "pod", "a"],
                "What pods were given through the CNI plugin",
            ),
            Self::Fdb => (
                "fdb",
                &["macs", "mac", "f"],
                "Behind what each known MAC address is",
            ),
            Self::Tunnels => (
                "tunnels",
                &["tunnel", "t"],
                "Whether each remote VTEP is reached, and how",
            ),
            Self::Objects => (
                "objects",
                &["object", "o"],
                "What is wanted: each object with its owner and generation",
            ),
            Self::Drops => (
                "drops",
                &["drop", "d"],
                "What was dropped and why, and the ledger of all frames",
            ),
            Self::Counters => ("counters", &["counter", "c"], "All counters of the ports"),
        };
        Some(PossibleValue::new(name).aliases(aliases).help(help))
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// For people, or for programs
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table",
        value_enum
    )]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    /// A table with more columns, where there are more
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Fdb {
    /// Say where a station is
    ///
    /// The entry neither ages nor moves. It is lost with the daemon: `static` in the configuration is not.
    #[command(group = ArgGroup::new("place").required(true).args(["port", "remote"]))]
    Add {
        /// The bridge domain
        bridge_domain: Name,
        /// The station's MAC address
        mac: MacAddr,
        /// The port that it is behind
        #[arg(long)]
        port: Option<Name>,
        /// The VLAN on that port, where the domain is there under several
        #[arg(long, conflicts_with = "remote", value_name = "VID", value_parser = clap::value_parser!(u16).range(1..=4094))]
        vlan: Option<u16>,
        /// The remote VTEP that it is behind
        #[arg(long, value_name = "ADDRESS")]
        remote: Option<IpAddr>,
    },
    /// Remove a station that was learned or added by hand
    #[command(visible_alias = "delete")]
    Del {
        /// The bridge domain
        bridge_domain: Name,
        /// The station's MAC address
        mac: MacAddr,
    },
    /// Forget learned stations: all, or those of a bridge domain or port
    Flush {
        /// Only of this bridge domain
        bridge_domain: Option<Name>,
        /// Only behind this port
        #[arg(long)]
        port: Option<Name>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sriov {
    /// List the physical functions
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show a physical function with its VFs, or one VF
    Show {
        /// The name of an interface, or a PCI address
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Make the functions as `sriov` of a configuration has them
    ///
    /// All of it, or nothing: when something is refused, what was changed before is undone. What would take a VF away that
    /// somebody holds is refused, with all who hold one. Leases of a daemon are not known here: use it where none runs.
    Apply {
        /// The configuration file (YAML); `-`: standard input
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only show what would be done, and who would notice
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Explain what this host can and cannot do for Clearway, and what to change
///
/// Looks at the kernel, memory, cores and interfaces; changes nothing. Fails if something will not work.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The interfaces to look at [default: all but loopback]
    #[arg(value_name = "INTERFACE")]
    pub(crate) interfaces: Vec<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Show Clearway at work, in network namespaces of its own
///
/// Two pods behind veth pairs and a remote host behind a kernel VXLAN device talk through a daemon; pings, iperf3
/// figures and the daemon's tables are shown. Takes about 20 seconds and leaves nothing behind. Needs root, ip
/// (iproute2) and ping; iperf3 and ethtool if they are there.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Seconds for each iperf3 run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub(crate) seconds: u8,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "An example: clearway completions bash > /etc/bash_completion.d/clearway")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Print the manual page, or write the pages of all commands
#[derive(Debug, Args)]
#[command(after_help = "Examples: clearway man | man -l -; clearway man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write clearway.1, clearway-run.1 and so on into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

/// Names the nearest command, where clap's own measure finds none: letters in a wrong order.
pub(crate) fn with_nearest(mut error: clap::Error) -> clap::Error {
    let nearest = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(written))) => Cli::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .map(|name| (strsim::damerau_levenshtein(written, &name), name))
            .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
            .min()
            .map(|(_, name)| name),
        _ => None,
    };
    if let (Some(name), None) = (nearest, error.get(ContextKind::SuggestedSubcommand)) {
        error.insert(
            ContextKind::SuggestedSubcommand,
            ContextValue::Strings(vec![name]),
        );
    }
    error
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|s| (0.1..=86_400.0).contains(s))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.1 to 86400 is needed".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn results_have_formats() {
        for line in ["get ports -o json", "apply -f x -o json", "doctor --output json"] {
            let cli = parse(&format!("clearway {line}")).unwrap();
            let output = match cli.command {
                Command::Get(Get { output, .. })
                | Command::Apply(Apply { output, .. })
                | Command::Doctor(Doctor { output, .. }) => output,
                other => panic!("{other:?}"),
            };
            assert_eq!(output.format, Format::Json, "{line}");
        }
    }

    #[test]
    fn nouns_may_be_short() {
        for (text, what) in [
            ("p", What::Ports),
            ("port", What::Ports),
            ("bd", What::BridgeDomains),
            ("bridge-domain", What::BridgeDomains),
            ("mac", What::Fdb),
            ("tunnel", What::Tunnels),
            ("o", What::Objects),
        ] {
            let cli = parse(&format!("clearway get {text} x --watch")).unwrap();
            let Command::Get(get) = cli.command else {
                panic!("{cli:?}");
            };
            assert_eq!(
                (get.what, get.name.as_deref(), get.watch),
                (what, Some("x"), Some(Duration::from_secs(1)))
            );
        }
    }

    #[test]
    fn the_period_of_watch_is_written_with_an_equals_sign() {
        for (text, seconds) in [("--watch=5", 5.0), ("-w=0.5", 0.5)] {
            let cli = parse(&format!("clearway get ports {text}")).unwrap();
            let Command::Get(get) = cli.command else {
                panic!("{cli:?}");
            };
            assert_eq!(get.watch, Some(Duration::from_secs_f64(seconds)));
        }
        assert!(parse("clearway get ports --watch=0").is_err());
    }

    #[test]
    fn run_takes_a_file_or_ports() {
        assert!(parse("clearway run").is_err());
        assert!(parse("clearway run --config f --port memory:a").is_err());
        assert!(parse("clearway run --config f --core 1").is_err());
        let cli =
            parse("clearway --socket /s run --port memory:a -p memory:b --cross-connect --core 1").unwrap();
        assert_eq!(cli.socket.unwrap(), PathBuf::from("/s"));
        let Command::Run(run) = cli.command else {
            panic!("not run");
        };
        assert_eq!((run.port.len(), run.core, run.cross_connect), (2, Some(1), true));
        // Global options may come last as well.
        assert!(parse("clearway get ports --socket /s").is_ok());
    }

    #[test]
    fn functions_are_shown_and_set_up() {
        assert!(parse("clearway sriov").is_err());
        assert!(parse("clearway sriov show").is_err());
        assert!(parse("clearway sriov apply").is_err());
        assert!(parse("clearway sriov list -o json").is_ok());
        let cli = parse("clearway sriov apply -f x --dry-run").unwrap();
        let Command::Sriov(Sriov::Apply { dry_run, .. }) = cli.command else {
            panic!("{cli:?}");
        };
        assert!(dry_run);
    }

    #[test]
    fn a_station_has_one_place() {
        let station = "clearway fdb add red 02:00:00:00:00:01";
        assert!(parse(station).is_err());
        assert!(parse(&format!("{station} --port a --remote 10.0.0.1")).is_err());
        assert!(parse(&format!("{station} --remote 10.0.0.1 --vlan 3")).is_err());
        assert!(parse(&format!("{station} --port a --vlan 4095")).is_err());
        assert!(parse(&format!("{station} --port a --vlan 3")).is_ok());
        assert!(parse(&format!("{station} --remote 2001:db8::1")).is_ok());
    }
}
