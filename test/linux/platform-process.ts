/** A process without rights that asks whether it could run a node proxy. */

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { loadNative } from '../../src/linux/native.ts';
import { checkPlatform } from '../../src/linux/platform.ts';

try {
  await checkPlatform(loadNative(), createSystemClock());
} catch (error) {
  if (error instanceof MeshError) process.stdout.write(`${error.code} ${error.message}\n`);
}
