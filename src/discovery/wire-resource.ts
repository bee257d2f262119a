/**
 * One named thing as it travels: its encoded bytes with the names it is found by. The bytes are never decoded
 * on the way (controller → agent → worker); whoever uses the thing decodes it.
 */

import { hash } from 'node:crypto';

export interface WireResource {
  /** Unique within its type. */
  readonly name: string;
  /** Other names that an on-demand subscription may use, e.g. `network/ip`. */
  readonly aliases: readonly string[];
  /** A subscription to one of these names brings this resource too: the services a workload is behind. */
  readonly groups: readonly string[];
  /** Changes exactly when the content does. */
  readonly version: string;
  /** The encoded value of the `Any`. Never changed once made. */
  readonly body: Uint8Array;
}

/** 64 bits of SHA-256: the version needs to differ only from the one before of the same name. */
const VERSION_HEX_DIGITS = 16;

/** The version of a content: the same after any restart, so that nothing unchanged is sent again. */
export function contentVersion(body: Uint8Array): string {
  return hash('sha256', body, 'hex').slice(0, VERSION_HEX_DIGITS);
}

/** A resource with the version of its content. Takes `body`: it must not be changed afterwards. */
export function createWireResource(
  name: string,
  body: Uint8Array,
  aliases: readonly string[] = [],
  groups: readonly string[] = [],
): WireResource {
  return { name, aliases, groups, version: contentVersion(body), body };
}
