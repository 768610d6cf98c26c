#!lua flags=allow-oom
-- uses streams destinations
-- Delays what waits on the streams for one agent, and nobody has claimed. Records can't be written here: they keep
-- saying `waiting`.
-- KEYS fixed
-- ARGV
--   1 uid
--   2 agent
--   3 due                 when they are due, in ms
--   4 class               whose stream
--   5 behind              the entry behind which it looks, and behind the last one that was claimed
--   6 most                entries that it looks at
--   7 of                  the destination (is_redefined); '': any
-- Answers
--   {'gone'}
--   {'redefined'}         the crew has another destination of this name
--   {'ok', last, n}       the last entry that it looked at ('': there was none), and how many it delayed
local uid, agent, due, class, behind, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local of, stream = ARGV[7], STREAM[class]
if is_gone(uid) then return { 'gone' } end
if is_redefined(agent, of) then return { 'redefined' } end
if redis.call('EXISTS', stream) == 0 then return { 'ok', '', 0 } end

local function is_before(one, other)
  local ms, seq = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end

-- Others claim between two calls. What they hold must not be delayed as well: it would be there twice.
for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local name, last
  for i = 1, #group, 2 do
    if group[i] == 'name' then name = group[i + 1] elseif group[i] == 'last-delivered-id' then last = group[i + 1] end
  end
  if name == GROUP and is_before(behind, last) then behind = last end
end

local entries = redis.call('XRANGE', stream, '(' .. behind, '+', 'COUNT', most)
local delayed, last = 0, ''
for _, entry in ipairs(entries) do
  local id, whose, attempt = nil, nil, '1'
  for j = 1, #entry[2], 2 do
    local name, value = entry[2][j], entry[2][j + 1]
    if name == 'id' then id = value elseif name == 'agent' then whose = value
    elseif name == 'attempt' then attempt = value end
  end
  if id and whose == agent then
    delay(id, class, agent, attempt, due)
    redis.call('XDEL', stream, entry[1])
    delayed = delayed + 1
  end
  last = entry[1]
end
return { 'ok', last, delayed }
