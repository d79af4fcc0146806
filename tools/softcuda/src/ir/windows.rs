//! Where the state spaces lie in the generic address space.
//!
//! A generic address is 64 bits wide. Device global memory, and with it `.const` variables, is addressed as it
//! is; the other spaces have windows far above any device allocation:
//!
//! | window | what lies there |
//! |---|---|
//! | [`SHARED_WINDOW`] | the shared memory of the cluster's blocks, that of rank r at `r << SHARED_RANK_SHIFT` |
//! | [`LOCAL_WINDOW`] | the thread's own local memory |
//! | [`PARAM_WINDOW`] | the kernel's parameters |
//!
//! In the shared state space itself (32 or 64 bits) an address below `1 << SHARED_RANK_SHIFT` is an offset in
//! the block's own shared memory. What `mapa` gives for the block of rank r has r + 1 in the bits above, so the
//! same bits mean the same memory in an instruction on `.shared::cta` and on `.shared::cluster`.

/// Shared memory of the cluster.
pub const SHARED_WINDOW: u64 = 0x1_0000_0000_0000;
/// Local memory of the thread.
pub const LOCAL_WINDOW: u64 = 0x2_0000_0000_0000;
/// Kernel parameters.
pub const PARAM_WINDOW: u64 = 0x3_0000_0000_0000;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 0x1_0000_0000_0000;
/// Bits of an offset in one block's shared memory; the block's rank in its cluster stands above them.
pub const SHARED_RANK_SHIFT: u32 = 24;

const SHARED_OFFSET: u64 = (1 << SHARED_RANK_SHIFT) - 1;

/// What a space's address becomes when the generic address was of another space: no memory is there, so an
/// access reports it, and so does one with its low 32 bits alone.
const NOWHERE: u64 = 0xffff_ffff_ff00_0000;

/// Whether a generic address lies in the window that begins at `window`.
#[inline(always)]
pub const fn in_window(generic: u64, window: u64) -> bool {
    generic.wrapping_sub(window) < WINDOW_BYTES
}

/// The shared address (`mapa.shared::cluster`) of `offset` in the block of this rank.
#[inline(always)]
pub const fn shared_of_rank(offset: u64, rank: u32) -> u64 {
    (rank as u64 + 1) << SHARED_RANK_SHIFT | offset & SHARED_OFFSET
}

/// The rank of the block that a shared address refers to, and the offset in its shared memory.
#[inline(always)]
pub const fn shared_place(address: u64, own_rank: u32) -> (u64, u64) {
    let rank = address >> SHARED_RANK_SHIFT;
    let rank = if rank == 0 { own_rank as u64 } else { rank - 1 };
    (rank, address & SHARED_OFFSET)
}

/// `cvta.shared`
#[inline(always)]
pub const fn shared_to_generic(address: u64, own_rank: u32) -> u64 {
    let (rank, offset) = shared_place(address, own_rank);
    SHARED_WINDOW.wrapping_add(rank << SHARED_RANK_SHIFT | offset)
}

/// `cvta.to.shared`
#[inline(always)]
pub const fn generic_to_shared(generic: u64, own_rank: u32) -> u64 {
    if !in_window(generic, SHARED_WINDOW) {
        return NOWHERE | generic & SHARED_OFFSET;
    }
    let (rank, offset) = generic_place(generic);
    if rank == own_rank as u64 {
        offset
    } else {
        (rank + 1) << SHARED_RANK_SHIFT | offset
    }
}

/// Rank and offset of a generic address in the shared window.
#[inline(always)]
pub const fn generic_place(generic: u64) -> (u64, u64) {
    let address = generic - SHARED_WINDOW;
    (address >> SHARED_RANK_SHIFT, address & SHARED_OFFSET)
}

/// `cvta.to.local`, `cvta.to.param`
#[inline(always)]
pub const fn generic_to_window(generic: u64, window: u64) -> u64 {
    if in_window(generic, window) {
        generic - window
    } else {
        NOWHERE | generic & SHARED_OFFSET
    }
}

/// Whether the address is in device global memory: `isspacep.global`. Kernel parameters count as global.
#[inline(always)]
pub const fn is_global(generic: u64) -> bool {
    !in_window(generic, SHARED_WINDOW) && !in_window(generic, LOCAL_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_addresses_go_there_and_back() {
        for own in 0..4 {
            for rank in 0..4 {
                for offset in [0, 1, 0x400, 0x3_8fff, 0xff_ffff] {
                    let generic = 0x1_0000_0000_0000 + u64::from(rank) * 0x100_0000 + offset;
                    assert_eq!(shared_to_generic(shared_of_rank(offset, rank), own), generic);
                    let shared = generic_to_shared(generic, own);
                    assert_eq!(shared_place(shared, own), (u64::from(rank), offset));
                    if rank == own {
                        assert_eq!(shared, offset);
                        assert_eq!(shared_to_generic(offset, own), generic);
                    }
                }
            }
        }
    }

    #[test]
    fn another_spaces_address_leads_nowhere() {
        for generic in [0, 0x7f00_0000_1000, LOCAL_WINDOW + 8, u64::MAX] {
            let shared = generic_to_shared(generic, 0);
            assert!(shared_place(shared, 0).0 > 0xff_0000);
            assert_eq!(shared_place(u64::from(shared as u32), 0).0, 254);
        }
        assert_eq!(generic_to_window(SHARED_WINDOW, LOCAL_WINDOW), NOWHERE);
        assert_eq!(generic_to_window(LOCAL_WINDOW + 12, LOCAL_WINDOW), 12);
    }
}
