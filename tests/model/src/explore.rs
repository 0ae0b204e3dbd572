//! Runs the checker, and says how much it saw.

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Explores every reachable state, prints their number, and asserts all properties.
pub fn assert_holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, {} transitions, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    checker.assert_properties();
    // The checker goes on while a property has neither an example nor a counterexample, so with
    // the above this says that nothing was left out.
    assert!(checker.is_done(), "{name} was not explored to the end");
}

/// Asserts what must be so in every reachable state; what is only to happen sometimes may be beyond
/// this scenario. Returns the number of states.
pub fn holds_everywhere<M>(name: &str, model: M) -> usize
where
    M: Model + Clone + Send + Sync + std::fmt::Debug + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let wanted = HasDiscoveries::AnyFailures;
    let checker = model.clone().checker().finish_when(wanted).spawn_bfs().join();
    for property in model.properties().iter().filter(|it| it.expectation == Expectation::Always) {
        if let Some(path) = checker.discovery(property.name) {
            panic!("{name}: \"{}\" breaks in {model:#?}\n{path}", property.name);
        }
    }
    assert!(checker.is_done(), "{name} was not explored to the end");
    checker.unique_state_count()
}

/// Asserts that a variant breaks this property, and prints the shortest way there.
pub fn assert_breaks<M>(name: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + std::fmt::Debug + std::hash::Hash + PartialEq + Send + Sync,
    M::Action: Clone + std::fmt::Debug + PartialEq + Send + Sync,
{
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().finish_when(wanted).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else {
        panic!("{name} does not break \"{property}\" in {} states", checker.unique_state_count());
    };
    let actions = path.into_actions();
    println!(
        "{name}: \"{property}\" breaks in {} steps, {} states seen: {actions:?}",
        actions.len(),
        checker.unique_state_count()
    );
}
