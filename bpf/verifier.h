/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every workaround for the verifier or for what clang does to it: its name, the complaint, the kernels. */
#ifndef PENSTOCK_VERIFIER_H
#define PENSTOCK_VERIFIER_H

/*
 * PS_NO_STATIC_CONST: a static const struct that clang 14 optimises away stays in the BTF of .rodata, with offset 0.
 * Complaint: "DATASEC .rodata … Invalid offset", which libbpf ignores; then "map 'ps_conn4' has to have BTF in order to
 * use bpf_timer". All kernels. So: compound literals.
 */

/*
 * PS_RETURN_ZERO: a void function that is not inlined leaves in R0 what happened to be there, and clang
 * makes a function void whose result nobody uses. Complaint: "cannot return stack pointer to the caller". All kernels.
 */
#define PS_RETURN_ZERO                   \
	do {                                 \
		asm volatile("r0 = 0" ::: "r0"); \
		return;                          \
	} while (0)

/*
 * PS_SCRATCH: a packet's work lies in a per-CPU map. On the stack each slot's history tells states apart, and they
 * multiply with every branch of the parser. Complaint: "BPF program is too large. Processed 1000001 insn"; 6.18.
 */

/*
 * PS_APART: a global function is verified once, with any arguments, instead of once for each state of each caller. It
 * takes no pointer but the context (others: 5.12 on), and finds its work again. Complaint: as PS_SCRATCH.
 */
#define PS_APART __attribute__((noinline))

/*
 * PS_OPAQUE: clang may keep the address of a field of the context instead of the context. Complaint: "dereference of
 * modified ctx ptr". All kernels.
 */
#define PS_OPAQUE(pointer) asm volatile("" : "+r"(pointer))

/*
 * PS_READ_ONCE, PS_WRITE_ONCE: one load or store of the declared width. Not for the verifier but for the same reader:
 * clang may split or repeat an access to a word that another CPU writes.
 */
#define PS_READ_ONCE(word) (*(volatile typeof(word) *)&(word))
#define PS_WRITE_ONCE(word, value) (*(volatile typeof(word) *)&(word) = (value))

/*
 * PS_OPTION_SET: optlen and retval of struct bpf_sockopt lie side by side, and clang makes one 64-bit store of two.
 * Complaint: "invalid bpf_context access off=… size=8". All kernels.
 */
#define PS_OPTION_SET(field, value) (*(volatile __s32 *)&(field) = (value))

/*
 * PS_NO_CONST_COPY: a struct copied to a map's value from an initializer that is partly constant. clang 14 replaces the
 * loads from the constant, and loses stores to the value that come before them. No complaint: the bytes are missing.
 * So: field by field.
 */

#endif
