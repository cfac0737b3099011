-- next_part(most, age_ms) -> {first id, last id} of what is to be archived next | {} where nothing is yet
-- j stream; meta hash: cut
-- A cut stands until `forget_part` has taken it away: whoever asks meanwhile is told the same, so that
-- all write one part under one name. `most` transitions are a part, and fewer once the first is old.
local cut = redis.call('HGET', META, 'cut')
local first = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
if not first then return {} end
if not cut then
  local is_old = now_ms() - tonumber(string.match(first[1], '^%d+')) >= tonumber(ARGV[2])
  if not is_old and redis.call('XLEN', LOG) < tonumber(ARGV[1]) then return {} end
  local rows = redis.call('XRANGE', LOG, '-', '+', 'COUNT', ARGV[1])
  cut = rows[#rows][1]
  redis.call('HSET', META, 'cut', cut)
end
return {first[1], cut}
