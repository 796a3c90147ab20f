//! What both programs need of their context: XDP sees frames come in, tcx sees them go out.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_skb_load_bytes, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};

/// A frame and the ways to read it.
pub trait Frame {
    /// The linear part.
    fn bounds(&self) -> (usize, usize);
    /// Copies `len` bytes from `offset`, wherever they lie.
    ///
    /// # Safety
    /// `to` has room for `len` bytes.
    unsafe fn load(&self, offset: u32, to: *mut u8, len: u32) -> bool;
    /// Bytes of the frame, its fragments included.
    fn len(&self) -> usize;
    /// The interface's index.
    fn interface(&self) -> u32;
}

impl Frame for XdpContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's; the helper checks the frame.
        unsafe { bpf_xdp_load_bytes(self.ctx, offset, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    unsafe fn load(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's; the helper checks the frame.
        unsafe { bpf_skb_load_bytes(self.as_ptr(), offset, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.skb.len() as usize
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.skb.skb).ifindex }
    }
}

/// A `T` at `offset`, if the frame's linear part holds it.
#[inline(always)]
pub fn at<T>(frame: &impl Frame, offset: usize) -> Option<*const T> {
    let (start, end) = frame.bounds();
    if start + offset + size_of::<T>() > end { None } else { Some((start + offset) as *const T) }
}

/// Copies `len` bytes, 1 to `MOST`, from `offset`, wherever they lie. `false` for any other `len`, or if the frame ends
/// before.
///
/// # Safety
/// `to` has room for `len` bytes.
#[inline(always)]
pub unsafe fn load<const MOST: usize>(frame: &impl Frame, offset: usize, to: *mut u8, len: usize) -> bool {
    // Hidden from LLVM, which would drop the bound that the verifier wants to see. One less is compared, since the
    // verifier of Linux 6.1 learns nothing from a comparison with 0.
    let less = black_box(len.wrapping_sub(1));
    // SAFETY: the caller's.
    less < MOST && unsafe { frame.load(offset as u32, to, (less + 1) as u32) }
}
