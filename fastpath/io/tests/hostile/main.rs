//! The catalogue of hostile guests: what each does, and what becomes of it. Whatever it is, nothing panics, nothing is
//! written outside the guest's memory, every chunk comes home, and the other ports of the same worker lose no frame.
//!
//! `cargo test -p clearway-io --test hostile -- --nocapture` prints the catalogue.
#![allow(unreachable_pub, reason = "a test program has no outside")]

#[path = "../vhost/bed.rs"]
mod bed;

mod addresses;
mod chains;
mod headers;
mod indices;
mod memory;
mod notify;
mod packed;
mod races;
mod receive;
mod scene;

use scene::{Behaviour, run};

fn catalogue() -> Vec<&'static [Behaviour]> {
    vec![
        addresses::ALL,
        chains::ALL,
        indices::ALL,
        packed::ALL,
        headers::ALL,
        receive::ALL,
        memory::ALL,
        notify::ALL,
    ]
}

macro_rules! sections {
    ($($name:ident: $all:expr;)*) => {
        $(#[test]
        fn $name() {
            $all.iter().for_each(run);
        })*
    };
}

sections! {
    addresses_that_lie: addresses::ALL;
    chains_that_lie: chains::ALL;
    indices_that_lie: indices::ALL;
    packed_rings_that_lie: packed::ALL;
    headers_that_lie: headers::ALL;
    receive_queues_that_lie: receive::ALL;
    memory_that_goes: memory::ALL;
    notifications_that_lie: notify::ALL;
}

#[test]
fn the_catalogue_has_at_least_sixty_behaviours_each_with_a_name_of_its_own() {
    let mut names = std::collections::BTreeSet::new();
    for behaviour in catalogue().into_iter().flatten() {
        assert!(names.insert(behaviour.name), "{} is there twice", behaviour.name);
        println!("{:44} {:90} {}", behaviour.name, behaviour.does, behaviour.expect);
    }
    println!("{} behaviours, and the races", names.len());
    assert!(names.len() >= 60, "only {}", names.len());
}
