#!lua flags=allow-oom
-- KEYS: fixed. ARGV: uid, incarnation, sequence number, slots, lease ms, may take over?
-- -> {'gone'} | what `claim` says
if is_gone(ARGV[1]) then return { 'gone' } end
return claim(ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1')
