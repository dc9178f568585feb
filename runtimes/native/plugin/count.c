/* A plugin for QEMU's user-mode emulation that counts the A64 instructions a program executes, by class.
 *
 * qemu-aarch64 -plugin count.so,out=FILE PROGRAM. Each time the program executes a mark (HINT #127: clock.cpp of the
 * runner) one line goes to FILE: how many instructions of each class there have been before it, marks left out. Counts
 * are exact for a program of one thread, and the same in every run that does the same.
 *
 * The prototypes are of QEMU's plugin API, which Debian ships no header of (docs/devel/tcg-plugins and
 * qemu-plugin.h in QEMU's sources): version 1 is QEMU before 9.0, from version 3 on instructions are copied out.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef EDGE_PLUGIN_API
#define EDGE_PLUGIN_API 1
#endif
#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_CB_RW_REGS };
typedef struct qemu_info_t qemu_info_t;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, void (*cb)(unsigned int, void *),
                                            enum qemu_plugin_cb_flags flags, void *userdata);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, void *), void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
#if EDGE_PLUGIN_API >= 3
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *destination, size_t length);
#else
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
#endif

EXPORTED int qemu_plugin_version = EDGE_PLUGIN_API;

#define MARK 0xD5032FFFu /* HINT #127 */

/* Arm Architecture Reference Manual for A-profile, C4.1: the main encoding table, by bits 28 to 25. Loads and stores of
 * SIMD and floating-point registers are loads and stores. */
enum class { INTEGER, BRANCH, LOAD_STORE, SIMD_FP, OTHER, CLASSES };

static enum class class_of(uint32_t code) {
    const uint32_t op0 = code >> 25 & 15;
    if ((op0 & 5) == 4) return LOAD_STORE;           /* x1x0 */
    if ((op0 & 7) == 7) return SIMD_FP;              /* x111 */
    if ((op0 & 14) == 10) {                          /* 101x */
        /* Hints, barriers and system registers: 1101010100 in bits 31 to 22. */
        return code >> 22 == 0x354 ? OTHER : BRANCH;
    }
    if ((op0 & 14) == 8 || (op0 & 7) == 5) return INTEGER; /* 100x immediate, x101 register */
    return OTHER; /* reserved, SME, SVE: none of our cores has them */
}

/* Instructions that are executed together: a stretch of a translated block without a mark in it. */
struct stretch {
    uint32_t executed[CLASSES];
};

static uint64_t counts[CLASSES];
static FILE *out;

static void on_stretch(unsigned int cpu, void *data) {
    const struct stretch *stretch = data;
    (void)cpu;
    for (int i = 0; i < CLASSES; ++i) counts[i] += stretch->executed[i];
}

static void on_mark(unsigned int cpu, void *data) {
    (void)cpu, (void)data;
    fprintf(out, "%llu %llu %llu %llu %llu\n", (unsigned long long)counts[INTEGER], (unsigned long long)counts[BRANCH],
            (unsigned long long)counts[LOAD_STORE], (unsigned long long)counts[SIMD_FP], (unsigned long long)counts[OTHER]);
}

static uint32_t code_of(const struct qemu_plugin_insn *insn) {
    uint32_t code = 0;
#if EDGE_PLUGIN_API >= 3
    qemu_plugin_insn_data(insn, &code, sizeof code);
#else
    memcpy(&code, qemu_plugin_insn_data(insn), sizeof code);
#endif
    return code;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    const size_t count = qemu_plugin_tb_n_insns(tb);
    struct stretch *stretch = NULL;
    (void)id;
    for (size_t i = 0; i < count; ++i) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint32_t code = code_of(insn);
        if (code == MARK) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_NO_REGS, NULL);
            stretch = NULL;
            continue;
        }
        if (stretch == NULL) {
            /* Kept for as long as the program runs: a block may be executed at any time. */
            stretch = calloc(1, sizeof *stretch);
            if (stretch == NULL) abort();
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_stretch, QEMU_PLUGIN_CB_NO_REGS, stretch);
        }
        ++stretch->executed[class_of(code)];
    }
}

static void on_exit_of_program(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    fclose(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; ++i) {
        if (strncmp(argv[i], "out=", 4) == 0) out = fopen(argv[i] + 4, "w");
    }
    if (out == NULL) {
        fprintf(stderr, "count: say where to write, out=FILE\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
    return 0;
}
