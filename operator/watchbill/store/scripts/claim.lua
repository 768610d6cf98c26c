#!lua flags=allow-oom
-- uses events running streams leases claims
-- KEYS: fixed. ARGV: uid, incarnation, sequence number, slots, how many of them begin at once, lease ms, may take over?,
--   highest fence that the worker was given
-- -> {'gone'} | what `claim` says
local bar = barred(ARGV[1], ARGV[2], ARGV[3] == '1')
if bar then return { bar } end
local reply = claim(ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8]))
settle()
return reply
