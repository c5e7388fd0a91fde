//! Sets of steps.

use super::*;

fn next(t: &mut Talk, set: SetId) -> Option<u64> {
    t.m.poll_set(set).unwrap()
}

#[test]
fn members_come_in_the_order_of_the_journal_each_once() {
    let mut t = Talk::start();
    let run = |t: &mut Talk| {
        let set = t.m.set_new();
        let steps = ["x", "y", "z"].map(|prompt| t.agent(prompt));
        // The tags are in another order than the steps.
        for (step, tag) in steps.into_iter().zip([30, 20, 10]) {
            t.m.set_add(set, step, tag).unwrap();
        }
        (set, steps)
    };
    let (set, [x, y, z]) = run(&mut t);
    assert_eq!(next(&mut t, set), None);
    t.answer(y, "y");
    assert_eq!(next(&mut t, set), Some(20));
    assert_eq!(next(&mut t, set), None);
    t.answer(z, "z");
    t.answer(x, "x");
    assert_eq!([next(&mut t, set), next(&mut t, set)], [Some(10), Some(30)]);
    assert_eq!(t.m.poll_set(set), Err(Stop::Deadlock), "it is empty");

    t.reopen();
    let (set, _) = run(&mut t);
    assert_eq!([next(&mut t, set), next(&mut t, set), next(&mut t, set)], [Some(20), Some(10), Some(30)]);
    t.silent();
}

#[test]
fn a_step_that_is_done_already_can_be_added_also_twice() {
    let mut t = Talk::start();
    let (x, y) = (t.agent("x"), t.agent("y"));
    t.answer(y, "y");
    t.answer(x, "x");
    let set = t.m.set_new();
    t.m.set_add(set, x, 1).unwrap();
    t.m.set_add(set, y, 2).unwrap();
    t.m.set_add(set, y, 3).unwrap();
    assert_eq!([next(&mut t, set), next(&mut t, set), next(&mut t, set)], [Some(2), Some(3), Some(1)]);
    t.m.set_add(set, x, 1).unwrap();
    assert_eq!(next(&mut t, set), Some(1), "added again, it comes again");
}

#[test]
fn a_replaced_tag_stands_for_the_new_step_only() {
    let mut t = Talk::start();
    let (old, new) = (t.agent("old"), t.agent("new"));
    let set = t.m.set_new();
    t.m.set_add(set, old, 1).unwrap();
    t.m.set_add(set, new, 1).unwrap();
    t.answer(old, "old");
    assert_eq!(next(&mut t, set), None);
    t.answer(new, "new");
    assert_eq!(next(&mut t, set), Some(1));
    assert_eq!(t.m.poll_set(set), Err(Stop::Deadlock));
}

#[test]
fn dropping_the_step_that_a_tag_stood_for_before_leaves_the_new_one() {
    let mut t = Talk::start();
    let (old, new) = (t.agent("old"), t.agent("new"));
    let set = t.m.set_new();
    t.m.set_add(set, old, 1).unwrap();
    t.m.set_add(set, new, 1).unwrap();
    t.drop(old);
    t.answer(new, "new");
    assert_eq!(next(&mut t, set), Some(1));
}

#[test]
fn a_removed_tag_does_not_come() {
    let mut t = Talk::start();
    let (x, y) = (t.agent("x"), t.agent("y"));
    let set = t.m.set_new();
    t.m.set_add(set, x, 1).unwrap();
    t.m.set_add(set, y, 2).unwrap();
    t.answer(x, "x");
    t.m.set_remove(set, 1);
    t.m.set_remove(set, 77);
    assert_eq!(next(&mut t, set), None);
    t.answer(y, "y");
    assert_eq!(next(&mut t, set), Some(2));
    assert_eq!(t.got(x), said("x"), "the step itself is still there");
}

#[test]
fn a_dropped_step_is_in_no_set_any_more() {
    let mut t = Talk::start();
    let (x, y) = (t.agent("x"), t.agent("y"));
    let (one, two) = (t.m.set_new(), t.m.set_new());
    for set in [one, two] {
        t.m.set_add(set, x, 1).unwrap();
        t.m.set_add(set, y, 2).unwrap();
    }
    t.answer(x, "x");
    t.drop(x);
    assert_eq!(next(&mut t, one), None);
    t.answer(y, "y");
    assert_eq!([next(&mut t, one), next(&mut t, two)], [Some(2), Some(2)]);
}

#[test]
fn what_becomes_of_a_dropped_set_concerns_nobody() {
    let mut t = Talk::start();
    let x = t.agent("x");
    let (gone, kept) = (t.m.set_new(), t.m.set_new());
    t.m.set_add(gone, x, 1).unwrap();
    t.m.set_add(kept, x, 5).unwrap();
    t.m.set_drop(gone);
    t.answer(x, "x");
    assert_eq!(next(&mut t, kept), Some(5));
}

#[test]
fn steps_that_a_cancel_ended_together_come_by_tag() {
    let mut t = Talk::start();
    let steps = ["x", "y", "z"].map(|prompt| t.agent(prompt));
    let set = t.m.set_new();
    for (step, tag) in steps.into_iter().zip([3, 1, 2]) {
        t.m.set_add(set, step, tag).unwrap();
    }
    t.cancel();
    assert_eq!([next(&mut t, set), next(&mut t, set), next(&mut t, set)], [Some(1), Some(2), Some(3)]);
    assert_eq!(t.any(&[steps[2], steps[0]]), Some(0), "and in a list by place");
}

#[test]
fn waiting_for_nothing_is_a_deadlock() {
    let mut t = Talk::start();
    assert_eq!(t.m.poll_any(&[]), Err(Stop::Deadlock));
    let mut t = Talk::start();
    let set = t.m.set_new();
    assert_eq!(t.m.poll_set(set), Err(Stop::Deadlock));
    assert_eq!(Stop::Deadlock.to_string(), "the program waits for nothing that could ever happen");
}

#[test]
fn the_members_of_all_sets_together_are_limited() {
    let mut t = Talk::start();
    let step = t.agent("x");
    let sets = [t.m.set_new(), t.m.set_new()];
    let limit = limits::SET_MEMBERS as u64;
    for tag in 0..limit {
        t.m.set_add(sets[(tag % 2) as usize], step, tag).unwrap();
    }
    assert_eq!(t.m.set_add(sets[0], step, limit), Err(Stop::TooManyMembers));
}

#[test]
fn who_left_a_set_is_no_member() {
    let mut t = Talk::start();
    let step = t.agent("x");
    let set = t.m.set_new();
    // More than there may be at a time, by each of the ways out.
    for tag in 0..limits::SET_MEMBERS as u64 + 10 {
        t.m.set_add(set, step, 1_000_000 + tag).unwrap();
        t.m.set_remove(set, 1_000_000 + tag);
        t.m.set_add(set, step, 1).unwrap();
        let other = t.m.set_new();
        t.m.set_add(other, step, tag).unwrap();
        t.m.set_drop(other);
    }
    t.answer(step, "y");
    assert_eq!(next(&mut t, set), Some(1));
    assert_eq!(t.m.poll_set(set), Err(Stop::Deadlock));
}
