/** Files that others read at any moment: replaced as a whole, durable, and never through somebody's link (T123). */

import {
  closeSync,
  constants,
  fchmodSync,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

/** The temporary name starts with a dot and has no ending: no container runtime takes it for a configuration. */
const TEMPORARY = '.nodemesh-new';

/** Writes, syncs, renames and syncs the folder. Throws the file system's error; then the old file stands. */
export function replaceFile(path: string, content: string | Uint8Array, mode: number): void {
  const folder = dirname(path);
  const temporary = join(folder, TEMPORARY);
  // What a process that was killed here left behind.
  rmSync(temporary, { force: true });
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openSync(temporary, flags, mode);
  try {
    writeFileSync(fd, content);
    // The umask must not decide.
    fchmodSync(fd, mode);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  syncFolder(folder);
}

/** Removes a file for good. No error when it is not there. */
export function removeFile(path: string): void {
  rmSync(path, { force: true });
  syncFolder(dirname(path));
}

/** An entry survives a crash only once its folder is on the disk. */
export function syncFolder(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
