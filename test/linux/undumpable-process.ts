/** A process that forbids memory dumps of itself and prints what became of it. */

import { readFileSync } from 'node:fs';

import { loadNative, type NativeBackendName } from '../../src/linux/native.ts';
import { forbidMemoryDumps, isDumpable } from '../../src/linux/process-limits.ts';

const native = loadNative(process.argv[2] as NativeBackendName);
const before = isDumpable(native);
forbidMemoryDumps(native);
const core = /^Max core file size +(\d+) +0 /m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
process.stdout.write(`dumpable ${before}, then ${isDumpable(native)}; core ${core}\n`);
