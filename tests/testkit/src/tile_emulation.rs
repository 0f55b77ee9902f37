//! Tiles of AMX for tests on machines without them.
//!
//! Such a machine answers a tile instruction with SIGILL. The handler here carries the instruction out, as the
//! processor's manual describes it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), and goes on
//! behind it. It has what [`compute::tile`] has, and aborts where the processor would raise an exception.

use compute::Simd;

/// Every level of this machine, and tiles, emulated where it has none.
pub fn simd_levels() -> Vec<Simd> {
    #[allow(unused_mut, reason = "other machines have no tiles to emulate")]
    let mut levels = Simd::available();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if emulates() {
        eprintln!("no AMX here: its instructions are emulated");
        levels.push(x86::emulated());
    }
    levels
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use x86::emulated_products;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use x86::emulates;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use std::cell::{Cell, RefCell};
    use std::sync::OnceLock;

    use compute::Simd;

    const N_TILES: usize = 8;
    /// Rows of a tile, and words of a row.
    const SIDE: usize = 16;

    /// The tiles of one thread.
    struct Unit {
        /// Rows and words of a row of each tile; none without a configuration.
        shapes: Option<[(usize, usize); N_TILES]>,
        tiles: [[[u32; SIDE]; SIDE]; N_TILES],
    }

    thread_local! {
        static UNIT: RefCell<Unit> = const {
            RefCell::new(Unit { shapes: None, tiles: [[[0; SIDE]; SIDE]; N_TILES] })
        };
        static PRODUCTS: Cell<usize> = const { Cell::new(0) };
    }

    /// How many products of tiles this thread has emulated; none where the machine multiplies them itself.
    pub fn emulated_products() -> Option<usize> {
        emulates().then(|| PRODUCTS.get())
    }

    /// Whether the machine lacks an instruction on tiles.
    pub(super) fn emulates() -> bool {
        let machine = Simd::detect();
        !(machine.has_amx() && machine.has_amx_int8())
    }

    /// This machine with emulated tiles.
    pub(super) fn emulated() -> Simd {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            // SAFETY: zeros are a valid action; the handler has the signature that SA_SIGINFO asks for, and touches
            // nothing but the thread's own tiles and what its instruction names.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                let result = libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut());
                assert_eq!(result, 0, "the handler is installed");
            }
        });
        // SAFETY: the handler carries tile instructions out.
        unsafe { Simd::detect().assume_amx() }
    }

    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes the interrupted thread's state, which nobody else uses now.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let mut n_executed = 0;
        loop {
            let code = registers[libc::REG_RIP as usize] as *const [u8; 16];
            // SAFETY: the thread is to go on there. Code of this program goes on for 16 bytes behind a tile instruction.
            let code = unsafe { code.read() };
            let Some(instruction) = Instruction::decode(&code, registers) else {
                assert!(n_executed > 0, "no tile instruction: {code:02x?}");
                return;
            };
            // SAFETY: the instruction's memory operand is its program's word.
            UNIT.with_borrow_mut(|unit| unsafe { unit.execute(&instruction) });
            registers[libc::REG_RIP as usize] += instruction.length as i64;
            n_executed += 1; // the next one needs no signal of its own
        }
    }

    /// What VEX, opcode and ModRM say.
    struct Instruction {
        opcode: u8,
        /// 0 for none, then those of 66, F3 and F2.
        prefix: u8,
        /// ModRM's `reg`, its `rm` where that is a register, and VEX's own operand.
        reg: usize,
        rm: Option<usize>,
        vvvv: usize,
        /// Where the memory operand is, and the distance of its rows.
        address: usize,
        stride: usize,
        length: usize,
    }

    impl Instruction {
        fn decode(code: &[u8; 16], registers: &[libc::greg_t; 23]) -> Option<Self> {
            let [0xc4, extension, payload, opcode, modrm, ..] = *code else {
                return None;
            };
            // Map 0F38, W = 0, L = 0; the extension bits of registers are stored inverted.
            if extension & 0x1f != 2 || payload & 0x84 != 0 || !OPCODES.contains(&opcode) {
                return None;
            }
            let extended =
                |bit: u8, low: u8| usize::from(low & 7) | usize::from(!extension >> bit & 1) << 3;
            let general = |number: usize| registers[REGISTERS[number] as usize] as usize;
            let mut instruction = Self {
                opcode,
                prefix: payload & 3,
                reg: extended(7, modrm >> 3),
                rm: (modrm >> 6 == 3).then_some(extended(5, modrm)),
                vvvv: usize::from(!payload >> 3 & 15),
                address: 0,
                stride: 0,
                length: 5,
            };
            if instruction.rm.is_some() {
                return Some(instruction);
            }
            let mut base = extended(5, modrm);
            if modrm & 7 == 4 {
                let sib = code[5];
                instruction.length += 1;
                base = extended(5, sib);
                let index = extended(6, sib >> 3);
                if index != 4 {
                    instruction.stride = general(index) << (sib >> 6);
                }
            }
            let displacement = match modrm >> 6 {
                0 if base & 7 == 5 => return None, // relative to the next instruction, or without a base
                0 => 0,
                1 => {
                    instruction.length += 1;
                    isize::from(code[instruction.length - 1].cast_signed())
                }
                _ => {
                    instruction.length += 4;
                    let bytes = code[instruction.length - 4..instruction.length].try_into();
                    i32::from_le_bytes(bytes.ok()?) as isize
                }
            };
            instruction.address = general(base).wrapping_add_signed(displacement);
            Some(instruction)
        }
    }

    /// Configuration and zeros, memory, products of bf16 and of integers.
    const OPCODES: [u8; 4] = [0x49, 0x4b, 0x5c, 0x5e];

    /// Where the system keeps the general registers, by the processor's numbers.
    const REGISTERS: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];

    impl Unit {
        /// # Safety
        /// The instruction's memory operand is there.
        unsafe fn execute(&mut self, instruction: &Instruction) {
            let Instruction {
                opcode,
                prefix,
                reg,
                rm,
                vvvv,
                address,
                stride,
                ..
            } = *instruction;
            match (opcode, prefix, rm) {
                // LDTILECFG, TILERELEASE
                // SAFETY: 64 bytes by the caller's word.
                (0x49, 0, None) => self.configure(unsafe { &*(address as *const [u8; 64]) }),
                (0x49, 0, Some(0)) => self.shapes = None,
                // TILEZERO
                (0x49, 3, Some(0)) => {
                    self.shape(reg);
                    self.tiles[reg] = [[0; SIDE]; SIDE];
                }
                // TILELOADD: what is outside the shape becomes zero.
                (0x4b, 3, None) => {
                    let (rows, words) = self.shape(reg);
                    self.tiles[reg] = [[0; SIDE]; SIDE];
                    for (row, target) in self.tiles[reg][..rows].iter_mut().enumerate() {
                        let from = address.wrapping_add(row * stride) as *const u32;
                        // SAFETY: the row is there by the caller's word.
                        unsafe { from.copy_to_nonoverlapping(target.as_mut_ptr(), words) };
                    }
                }
                // TILESTORED
                (0x4b, 2, None) => {
                    let (rows, words) = self.shape(reg);
                    for (row, words_of_row) in self.tiles[reg][..rows].iter().enumerate() {
                        let to = address.wrapping_add(row * stride) as *mut u32;
                        // SAFETY: as above.
                        unsafe { to.copy_from_nonoverlapping(words_of_row.as_ptr(), words) };
                    }
                }
                // TDPBF16PS
                (0x5c, 2, Some(a)) => self.dot_bf16(reg, a, vvvv),
                // TDPBSUD, TDPBUSD
                (0x5e, 2, Some(a)) => {
                    self.dot_bytes(
                        reg,
                        (a, |byte| i32::from(byte.cast_signed())),
                        (vvvv, i32::from),
                    );
                }
                (0x5e, 1, Some(a)) => {
                    self.dot_bytes(
                        reg,
                        (a, i32::from),
                        (vvvv, |byte| i32::from(byte.cast_signed())),
                    );
                }
                _ => panic!("tile instruction {opcode:x} with prefix {prefix} is not emulated"),
            }
        }

        fn configure(&mut self, bytes: &[u8; 64]) {
            assert_eq!(bytes[..2], [1, 0], "palette and first row");
            assert_eq!(bytes[2..16], [0; 14], "reserved");
            let shape = |tile: usize| {
                let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
                (usize::from(bytes[48 + tile]), usize::from(row_bytes) / 4)
            };
            for tile in 0..16 {
                let (rows, words) = shape(tile);
                let least = usize::from(tile < N_TILES);
                assert!(
                    (least..=SIDE * least).contains(&rows),
                    "rows of tile {tile}"
                );
                assert!(
                    (least..=SIDE * least).contains(&words),
                    "columns of tile {tile}"
                );
            }
            self.shapes = Some(std::array::from_fn(shape));
            self.tiles = [[[0; SIDE]; SIDE]; N_TILES];
        }

        fn shape(&self, tile: usize) -> (usize, usize) {
            self.shapes
                .expect("tiles are configured before they are used")[tile]
        }

        /// Counts a product, and returns its rows, words of k, and columns.
        fn shapes_of_product(&self, sums: usize, a: usize, b: usize) -> (usize, usize, usize) {
            let ((rows, columns), (a_rows, words)) = (self.shape(sums), self.shape(a));
            assert_eq!(
                (rows, (words, columns)),
                (a_rows, self.shape(b)),
                "shapes fit together"
            );
            assert!(sums != a && a != b && b != sums, "tiles differ");
            PRODUCTS.set(PRODUCTS.get() + 1);
            (rows, words, columns)
        }

        /// `sums += a · b` of bytes, which the functions say to be signed or not.
        fn dot_bytes(
            &mut self,
            sums: usize,
            (a, of_a): (usize, fn(u8) -> i32),
            (b, of_b): (usize, fn(u8) -> i32),
        ) {
            let (rows, words, columns) = self.shapes_of_product(sums, a, b);
            for row in 0..rows {
                for word in 0..words {
                    let left = self.tiles[a][row][word].to_le_bytes();
                    for column in 0..columns {
                        let right = self.tiles[b][word][column].to_le_bytes();
                        let products = left.into_iter().zip(right);
                        let sum: i32 = products.map(|(x, y)| of_a(x) * of_b(y)).sum();
                        let target = &mut self.tiles[sums][row][column];
                        *target = target.wrapping_add(sum.cast_unsigned());
                    }
                }
            }
        }

        /// `sums += a · b`. The processor's multiplications are fused; so are these, as products of bf16 are exact.
        fn dot_bf16(&mut self, sums: usize, a: usize, b: usize) {
            let (rows, words, columns) = self.shapes_of_product(sums, a, b);
            let right = self.tiles[b].map(halves);
            for row in 0..rows {
                let left = halves(self.tiles[a][row]);
                let mut apart = [[0.0; SIDE]; 2];
                for (word, right) in right[..words].iter().enumerate() {
                    for (half, apart) in apart.iter_mut().enumerate() {
                        for (sum, right) in apart.iter_mut().zip(right[half]) {
                            *sum = flushed(*sum + left[half][word] * right);
                        }
                    }
                }
                let [even, odd] = apart;
                let sums = &mut self.tiles[sums][row][..columns];
                for ((sum, even), odd) in sums.iter_mut().zip(even).zip(odd) {
                    let before = flushed(f32::from_bits(*sum));
                    *sum = flushed(before + flushed(even + odd)).to_bits();
                }
            }
        }
    }

    /// The even and the odd bf16 of a row.
    fn halves(words: [u32; SIDE]) -> [[f32; SIDE]; 2] {
        let float = |bits: u32| flushed(f32::from_bits(bits));
        [
            words.map(|word| float(word << 16)),
            words.map(|word| float(word & 0xffff_0000)),
        ]
    }

    /// Zero for a denormal number.
    fn flushed(x: f32) -> f32 {
        let bits = x.to_bits();
        let kept = if bits & 0x7f80_0000 == 0 {
            0x8000_0000
        } else {
            u32::MAX
        };
        f32::from_bits(bits & kept)
    }
}
