/**
 * What an operator sees of peers that fail the handshake on port 15008: one warning at once, then at most one in
 * ten seconds with the number of those not shown, so that ten thousand silent clients write a line, not a log.
 */

import type { Clock } from '../base/clock.ts';
import type { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { PodUid } from '../core/pod.ts';

const PERIOD_MS = 10_000;

export interface HandshakeLog {
  failed(pod: PodUid, source: SocketAddress, error: MeshError): void;
}

/** `count` is called for every one, with the code of its error. */
export function createHandshakeLog(
  clock: Clock,
  logger: Logger,
  count: (code: string) => void,
): HandshakeLog {
  let shownMs = Number.NEGATIVE_INFINITY;
  let hidden = 0;
  return {
    failed(pod, source, error) {
      count(error.code);
      const nowMs = clock.nowMs();
      if (nowMs - shownMs < PERIOD_MS) {
        hidden++;
        return;
      }
      logger.warn('A peer failed the tunnel handshake', {
        pod,
        source: formatSocketAddress(source),
        code: error.code,
        error: error.message,
        notShown: hidden,
      });
      shownMs = nowMs;
      hidden = 0;
    },
  };
}
