/** Captured connections found in the kernel's table of sockets. */

import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import { countCaptured } from '../../src/redirect/captured-connections.ts';

const own = ['10.42.2.11', 'fd42:2::b'].map((text) => unwrap(parseAddress(text)));

function row(local: string, state: string): string {
  return `   0: ${local} 0A012A0A:1F90 ${state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0\n`;
}

t.test(
  'sockets on our ports and with a foreign source count, those of the application do not',
  async (t) => {
    const header = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n';
    const counted = [
      ['0B022A0A:3A99', '01', 'outbound capture'],
      ['0B022A0A:3A9E', '01', 'plaintext capture'],
      ['0B022A0A:3AA0', '08', 'tunnel, half closed'],
      ['0A012A0A:A1B2', '01', 'transparent source'],
      ['0000000000000000FFFF00000A012A0A:A1B2', '01', 'the same in an IPv6 socket'],
      ['010042FD00000000000000000A000000:A1B2', '01', 'IPv6 transparent source'],
    ] as const;
    for (const [local, state, name] of counted) {
      t.equal(countCaptured(header + row(local, state), own), 1, name);
    }
    const not = [
      ['0B022A0A:1538', '01', 'served by the application'],
      ['0000000000000000FFFF00000B022A0A:1538', '01', 'the same in an IPv6 socket'],
      ['020042FD00000000000000000B000000:1538', '01', 'over IPv6'],
      ['0100007F:1538', '01', 'over loopback'],
      ['00000000000000000000000001000000:1538', '01', 'over IPv6 loopback'],
      ['00000000:3A99', '0A', 'a listener'],
      ['0B022A0A:3A99', '06', 'TIME_WAIT'],
    ] as const;
    for (const [local, state, name] of not) {
      t.equal(countCaptured(header + row(local, state), own), 0, name);
    }
  },
);

t.test('any text is counted without failing', async (t) => {
  fc.assert(fc.property(fc.string(), (text) => countCaptured(text, own) === 0));
  t.pass();
});
