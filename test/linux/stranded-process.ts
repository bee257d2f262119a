/** A process whose way back out of a namespace is blocked: it must abort, not go on. */

import { closeSync } from 'node:fs';

import { openNamespace, runInNamespace } from '../../src/linux/namespaces.ts';
import { loadNative, type NativeBackendName } from '../../src/linux/native.ts';

const native = loadNative(process.argv[2] as NativeBackendName);
const own = openNamespace(native, '/proc/self/ns/net');
runInNamespace(native, own, () => closeSync(native.ownNamespaceFd));
process.stdout.write('went on\n');
