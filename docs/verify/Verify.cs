using System;
using System.Collections.Generic;
using System.Linq;
using System.Security.Cryptography;
using System.Text;

public static class WedSyncWebhook
{
    // headers with lower-case names; body: the exact bytes received.
    public static bool Verify(
        string secret, IReadOnlyDictionary<string, string> headers, byte[] body, int toleranceSeconds = 300)
    {
        var id = headers["webhook-id"];
        var timestamp = headers["webhook-timestamp"];
        var age = DateTimeOffset.UtcNow.ToUnixTimeSeconds() - long.Parse(timestamp);
        if (Math.Abs(age) > toleranceSeconds) return false;
        var key = Convert.FromBase64String(secret.StartsWith("whsec_") ? secret[6..] : secret);
        var signed = Encoding.UTF8.GetBytes($"{id}.{timestamp}.").Concat(body).ToArray();
        var expected = Encoding.ASCII.GetBytes("v1," + Convert.ToBase64String(HMACSHA256.HashData(key, signed)));
        return headers["webhook-signature"].Split(' ')
            .Any(given => CryptographicOperations.FixedTimeEquals(Encoding.ASCII.GetBytes(given), expected));
    }
}
