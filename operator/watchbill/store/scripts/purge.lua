#!lua flags=allow-oom
-- uses nothing
-- Dead letters go for good. KEYS: fixed. ARGV: uid, letters...  -> {'gone'} | {'ok', how many there were}
if is_gone(ARGV[1]) then return { 'gone' } end
local n = 0
for i = 2, #ARGV do n = n + redis.call('XDEL', DEAD, ARGV[i]) end
return { 'ok', n }
