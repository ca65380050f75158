//! The smallest forwarder over AF_XDP ports: what arrives on one port leaves on the other. It measures the
//! ports without an engine, and shows how they are opened.
//!
//! ```text
//! xsk-fwd --port eth1 --port eth2 --cpu 2 [--mode auto|zero-copy|native|generic] [--ring 2048]
//!         [--busy-poll BUDGET] [--tx-budget N] [--umems 1|2] [--seconds N]
//! ```
//!
//! Takes all frames of both interfaces (queue 0) until it is killed.

use clearway_io::{
    AfXdpPort, BATCH, BusyPoll, Frame, FrameBatch, HugePages, Interface, ModeRequest, PoolSet, Port,
    QueueConfig, RingSizes, Steering, Umem, UmemGeometry, UmemGroup, XdpProgram,
};
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

struct Options {
    ports: Vec<String>,
    cpu: Option<usize>,
    umems: usize,
    seconds: u64,
    config: QueueConfig,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut config = QueueConfig::for_queues(2);
    let mut options = Options {
        ports: Vec::new(),
        cpu: None,
        umems: 1,
        seconds: u64::MAX,
        config,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--port" => options.ports.push(value),
            "--cpu" => options.cpu = Some(value.parse()?),
            "--umems" => options.umems = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--ring" => {
                config.rings = RingSizes {
                    rx: value.parse()?,
                    tx: value.parse()?,
                }
            }
            "--tx-budget" => config.tx_budget = value.parse()?,
            "--busy-poll" => {
                config.busy_poll = Some(BusyPoll {
                    micros: 20,
                    budget: value.parse()?,
                })
            }
            "--mode" => {
                config.mode = match value.as_str() {
                    "auto" => ModeRequest::Auto,
                    "zero-copy" => ModeRequest::ZeroCopy,
                    "native" => ModeRequest::Native,
                    "generic" => ModeRequest::Generic,
                    _ => return Err(format!("{value} is no mode").into()),
                }
            }
            _ => return Err(format!("{name} is no option").into()),
        }
    }
    options.config = config;
    Ok(options)
}

fn pin(cpu: usize) -> std::io::Result<()> {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
        .then_some(())
        .ok_or_else(std::io::Error::last_os_error)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xsk-fwd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let chunks = RingSizes::chunks(&[options.config.rings; 2], 1);
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks,
        huge_pages: HugePages::Auto,
    };
    let mut pools = PoolSet::new();
    let mut groups = Vec::new();
    for _ in 0..options.umems {
        let umem = Umem::new(geometry)?;
        pools.add(&umem);
        groups.push(UmemGroup::new(umem));
    }
    let mut ports: Vec<AfXdpPort> = Vec::new();
    let mut programs = Vec::new();
    for (index, name) in options.ports.iter().enumerate() {
        let interface = Interface::find(name)?;
        let mut port = groups[index % options.umems].open(&interface, 0, &options.config)?;
        port.reclaim(&mut pools);
        let mut program = XdpProgram::load(Steering::Exclusive)?;
        program.register(0, port.socket())?;
        let attached = program.attach(&interface, options.config.mode, false)?;
        println!("{:?} attached {attached:?}", port.report());
        programs.push(program);
        ports.push(port);
    }
    if ports.len() != 2 {
        return Err("two ports are needed: --port A --port B".into());
    }
    println!("ready");
    let until = Instant::now().checked_add(Duration::from_secs(options.seconds));
    let (mut forwarded, mut refused) = (0u64, 0u64);
    let mut turn = 0u32;
    let mut batch = FrameBatch::new();
    let mut frames: Vec<Frame> = Vec::with_capacity(BATCH);
    loop {
        for (from, to) in [(0, 1), (1, 0)] {
            ports[from].reclaim(&mut pools);
            if ports[from].rx_batch(&mut pools, &mut batch) == 0 {
                continue;
            }
            frames.extend(batch.drain(..));
            forwarded += ports[to].tx_batch(&mut pools, &mut frames).packets;
            refused += frames.len() as u64;
            frames.drain(..).for_each(|frame| pools.free(frame));
        }
        if let Some(fault) = ports.iter().find_map(|port| port.fault()) {
            return Err(fault.clone().into());
        }
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(1024) && until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
    }
    println!(
        "forwarded {forwarded} refused {refused} lost {:?} {:?}",
        ports[0].rx_lost(),
        ports[1].rx_lost()
    );
    Ok(())
}
