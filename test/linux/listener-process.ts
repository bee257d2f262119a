/** A process that makes a listener in a namespace, prints its descriptor and waits to be killed. */

import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative, type NativeBackendName } from '../../src/linux/native.ts';
import { createListener } from '../../src/linux/sockets.ts';

const [backend, path = '', port] = process.argv.slice(2);
const native = loadNative(backend as NativeBackendName);
const fd = createListener(native, openNamespace(native, path), { port: Number(port) });
process.stdout.write(`${fd}\n`);
process.stdin.resume();
