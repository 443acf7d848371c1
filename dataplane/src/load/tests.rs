use super::*;

#[test]
fn pauses_grow_up_to_a_limit() {
    let mut pause = BACK_OFF_MIN;
    for _ in 0..20 {
        let next = longer(pause);
        assert!(next >= pause && next <= BACK_OFF_MAX);
        pause = next;
    }
    assert_eq!(pause, BACK_OFF_MAX);
}
