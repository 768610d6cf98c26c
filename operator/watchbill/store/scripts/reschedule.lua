#!lua flags=allow-oom
-- uses destinations
-- Gives the delayed work of one agent another time.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 agent
--   3 low                 of the times that it changes, as ZRANGEBYSCORE has them
--   4 high
--   5 due                 when it is due then, in ms, which is outside of these; '': now
--   6 skip                so many that stay as they are were looked at before
--   7 most                so many it looks at
--   8 wanted              so many it changes at most
--   9 of                  the destination (is_redefined); '': any
-- Answers
--   {'gone'}
--   {'redefined'}         the crew has another destination of this name
--   {'ok', looked, changed}    so many it has looked at, and has given another time
local uid, agent, low, high, due = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local skip, most, wanted, of = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
if is_gone(uid) then return { 'gone' } end
if is_redefined(agent, of) then return { 'redefined' } end
local found = redis.call('ZRANGEBYSCORE', DELAYED, low, high, 'LIMIT', skip, most)
local prefix, at, changed = agent .. FS, due == '' and now or due, {}
for _, member in ipairs(found) do
  if #changed < 2 * wanted and string.sub(member, 1, #prefix) == prefix then
    changed[#changed + 1], changed[#changed + 2] = at, member
  end
end
if #changed > 0 then
  redis.call('ZADD', DELAYED, unpack(changed))
  if due == '' then ring() end
end
return { 'ok', #found, #changed / 2 }
