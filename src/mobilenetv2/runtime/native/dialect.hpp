// What compilers spell differently: GCC and Clang on one side, Microsoft's on the other. All other files are plain
// C++17 and the intrinsics of processors, but for instructions of Arm that have no intrinsic. Macros alone: this header
// is compiled with every target's flags.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#define MNV2_X86_64
#endif

#if defined(__GNUC__) || defined(__clang__)

#define MNV2_NOINLINE __attribute__((noinline))
#define MNV2_WEAK __attribute__((weak))
// Of a function: parameter number `text` is that of printf, for the arguments from number `first` on.
#define MNV2_PRINTF(text, first) __attribute__((format(printf, text, first)))
// Fetches a cache line into the second-level cache.
#define MNV2_PREFETCH(from) __builtin_prefetch(from, 0, 2)
// The compiler forgets what it knows of a variable, which is in a register of that kind.
#define MNV2_IN_REGISTER(kind, variable) asm("" : "+" kind(variable))
// The compiler forgets what it knows of memory.
#define MNV2_COMPILER_BARRIER() asm volatile("" : : : "memory")

#else

#include <intrin.h>
// Elsewhere a flag of the compiler: no product is fused into a sum unless the code says so.
#pragma fp_contract(off)

#define MNV2_NOINLINE __declspec(noinline)
#define MNV2_PRINTF(text, first)
#if defined(MNV2_X86_64)
#define MNV2_PREFETCH(from) _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T1)
#else
#define MNV2_PREFETCH(from) static_cast<void>(from)
#endif
#define MNV2_IN_REGISTER(kind, variable) static_cast<void>(variable)
#define MNV2_COMPILER_BARRIER() _ReadWriteBarrier()

#endif

// In front of a loop of at most 16 rounds whose number is a constant.
#if defined(__clang__)
#define MNV2_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define MNV2_UNROLL _Pragma("GCC unroll 16")
#else
#define MNV2_UNROLL
#endif
